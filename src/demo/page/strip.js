// The list of what happened, newest first.

import { deliverAgain } from "./api.js";
import { at, busy, button, element, say } from "./dom.js";
import { watch } from "./feed.js";
import { icon } from "./icons.js";
import { clock, sentence } from "./words.js";

const ROWS_MAX = 300;

export class Strip {
  #root = at("strip");
  #list = this.#root.querySelector("[data-steps]");
  #everything = this.#root.querySelector("[data-everything]");
  #userId;
  // Whose an event is: a duplicate is told without its user.
  #owners = new Map();
  // Events that change nothing here: Stripe makes many of them.
  #unhandled = new Set();
  #rows = [];
  #offered = new Set();

  /** `onStep` is called for each step of the user, and `true` if it is older than the page. */
  constructor(userId, onStep) {
    this.#userId = userId;
    this.#everything.addEventListener("change", () => this.#filter());
    const begun = Date.now();
    watch({
      onStep: (step) => {
        this.#add(step);
        if (this.#ownerOf(step) === this.#userId) {
          onStep(step, Date.parse(step.at) < begun);
        }
      },
      onRestart: () => this.#clear(),
      onState: (live) => {
        const place = this.#root.querySelector("[data-live]");
        place.textContent = live ? "live" : "connecting";
        place.classList.toggle("on", live);
      },
    });
  }

  show(userId) {
    this.#userId = userId;
    this.#filter();
  }

  #ownerOf(step) {
    return step.user ?? this.#owners.get(step.event) ?? null;
  }

  #add(step) {
    const isNewOwner = step.user && step.event && !this.#owners.has(step.event);
    if (isNewOwner) {
      this.#owners.set(step.event, step.user);
    }
    const isUnhandled = step.step === "eventUnhandled";
    if (isUnhandled) {
      this.#unhandled.add(step.event);
    }
    const row = { step, item: this.#item(step) };
    this.#rows.unshift(row);
    this.#list.prepend(row.item);
    for (const old of this.#rows.splice(ROWS_MAX)) {
      old.item.remove();
    }
    if (isNewOwner || isUnhandled) {
      this.#filter();
    } else {
      this.#reveal(row);
      this.#showWhetherEmpty();
    }
  }

  #item(step) {
    const { icon: name, tone, text, id } = sentence(step);
    const item = element("li", `step ${tone}`);
    const picture = element("span", "picture");
    picture.append(icon(name));
    const words = element("div", "words");
    words.append(element("p", "", text));
    const line = element("p", "fine");
    const time = element("time", "", clock(step.at));
    time.dateTime = step.at;
    line.append(time);
    if (id) {
      line.append(element("code", "", id));
    }
    words.append(line);
    if (step.step === "eventDelivered" && !this.#offered.has(step.event)) {
      this.#offered.add(step.event);
      words.append(...again(step));
    }
    item.append(picture, words);
    return item;
  }

  #clear() {
    this.#rows = [];
    this.#owners.clear();
    this.#unhandled.clear();
    this.#offered.clear();
    this.#list.replaceChildren();
    this.#showWhetherEmpty();
  }

  #reveal({ step, item }) {
    const isNews = this.#ownerOf(step) === this.#userId && !this.#unhandled.has(step.event);
    item.hidden = !isNews && !this.#everything.checked;
  }

  #filter() {
    this.#rows.forEach((row) => this.#reveal(row));
    this.#showWhetherEmpty();
  }

  #showWhetherEmpty() {
    const empty = this.#rows.every((row) => row.item.hidden);
    this.#root.querySelector("[data-empty]").hidden = !empty;
    this.#root.querySelector("[data-scroll]").hidden = empty;
  }
}

/** A button that delivers an event again, and the place for the answer. */
function again({ event, kind }) {
  const answer = element("p", "answer");
  answer.hidden = true;
  const deliver = async (pressed) => {
    busy(pressed, true);
    try {
      const { status, body } = await deliverAgain(event);
      answer.replaceChildren(element("b", "", String(status)), element("code", "", body));
      say(`Delivered again. The answer was ${status} ${body}`);
    } catch (problem) {
      answer.replaceChildren(problem.message);
      say(problem.message);
    }
    answer.hidden = false;
    busy(pressed, false);
  };
  return [button("Deliver it again", `Deliver it again: ${kind}`, deliver), answer];
}
