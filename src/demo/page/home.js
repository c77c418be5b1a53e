// The page at `/`: who am I, what may I do, what can I buy.

import * as api from "./api.js";
import { at, busy, button, element, isBusy, say } from "./dom.js";
import { live } from "./life.js";
import { follow } from "./live.js";
import { Strip } from "./strip.js";
import { choose, chosen, keepPayPage, made, makeUp, showName } from "./user.js";
import { clock, day, price, terms } from "./words.js";

let user;
let client;
let level = null;
let leave = () => {};
let strip = null;

/** Shows a problem until it is over; `null` takes it away. */
function show(place, problem) {
  place.textContent = problem?.message ?? "";
  place.hidden = problem === null;
}

// Who

async function start() {
  const known = await api.users();
  const everybody = [...known, ...made()];
  const last = chosen();
  everybody.forEach(offer);
  at("user").addEventListener("change", () => become(everybody.find(({ userId }) => userId === at("user").value)));
  at("new-user").addEventListener("click", () => {
    const guest = makeUp();
    everybody.push(guest);
    offer(guest);
    become(guest);
    say(`You are ${guest.name} now`);
  });
  become(everybody.find(({ userId }) => userId === last?.userId) ?? known[0]);
}

function offer({ userId, name }) {
  at("user").append(new Option(name, userId));
}

function become(someone) {
  user = someone;
  client = new api.Client(user.userId);
  level = null;
  choose(user);
  showName(user);
  at("user").value = user.userId;
  at("user-id").textContent = user.userId;
  show(at("buy-problem"), null);
  if (strip) {
    strip.show(user.userId);
  } else {
    strip = new Strip(user.userId, () => {});
  }
  watchEntitlement();
  showCommands();
}

// What may I do now

function watchEntitlement() {
  leave();
  leave = follow(client, {
    onState: (entitlement) => {
      showEntitlement(entitlement);
      show(at("problem"), null);
    },
    onLost: (problem) => show(at("problem"), problem),
  });
}

function showEntitlement({ entitlementLevel, expiresAt, features, version, source }) {
  const isFree = entitlementLevel === "FREE";
  if (level !== null && level !== entitlementLevel) {
    say(`${user.name} is ${entitlementLevel} now`);
  }
  level = entitlementLevel;
  at("level").textContent = level;
  at("level").classList.toggle("paid", !isFree);
  at("gate").classList.toggle("open", !isFree);
  at("level-words").textContent = expiresAt ? `until ${day(expiresAt)}` : "what everybody has, for ever";
  at("features").textContent = features.join(", ") || "none";
  at("version").textContent = version;
  at("source").textContent = `the ${source}, told at ${clock(Date.now())}`;
  markCurrent();
}

// Plans

async function showPlans() {
  const plans = await api.plans();
  at("plans").replaceChildren(...plans.map(card));
  at("plans").removeAttribute("aria-busy");
  markCurrent();
}

function card(plan) {
  const item = element("li", "card plan");
  item.dataset.level = plan.level;
  const head = element("div", "plan-head");
  const mark = element("span", "mark", "current");
  mark.hidden = true;
  head.append(element("h3", "", plan.name), mark);
  const { amount, per } = price(plan);
  const cost = element("p", "price", amount);
  cost.append(element("span", "", per));
  const lines = element("ul", "terms");
  lines.append(...terms(plan).map((line) => element("li", "", line)));
  const verb = plan.price?.amount === 0 ? "Start" : "Buy";
  const order = element("button", "", `${verb} ${plan.name}`);
  order.type = "button";
  order.addEventListener("click", () => isBusy(order) || buy(plan, order));
  item.append(head, cost, lines, order);
  return item;
}

function markCurrent() {
  for (const item of at("plans").children) {
    const isCurrent = item.dataset.level === level;
    item.classList.toggle("current", isCurrent);
    item.querySelector(".mark").hidden = !isCurrent;
  }
}

async function buy(plan, order) {
  busy(order, true);
  show(at("buy-problem"), null);
  try {
    const session = await client.buy(plan.level);
    keepPayPage(session);
    location.assign(session.url);
  } catch (problem) {
    show(at("buy-problem"), problem);
    busy(order, false);
  }
}

// Who comes back from the pay page with the browser's button finds the page as it was left.
window.addEventListener("pageshow", ({ persisted }) => {
  if (persisted) {
    document.querySelectorAll(".plan button").forEach((order) => busy(order, false));
  }
});

// Switches

async function showSwitches(answer) {
  const { copies, reorder, withhold } = await answer;
  const { elements } = at("switches");
  elements.copies.checked = copies > 1;
  elements.reorder.checked = reorder;
  elements.withhold.checked = withhold;
}

at("switches").addEventListener("change", async () => {
  const { copies, reorder, withhold } = at("switches").elements;
  const wanted = { copies: copies.checked ? 2 : 1, reorder: reorder.checked, withhold: withhold.checked };
  try {
    await showSwitches(api.setSwitches(wanted));
    show(at("problem"), null);
  } catch (problem) {
    show(at("problem"), problem);
  }
});

// From a terminal

function showCommands() {
  const { userId } = user;
  const { origin } = location;
  const ask = (token) => `curl ${origin}/api/entitlements \\\n  -H "Authorization: Bearer ${token}"`;
  const trigger = `tollgate trigger checkout.session.completed \\\n  --user ${userId} \\\n  --url ${origin} --times 2`;
  at("commands").replaceChildren(
    command("What may I do?", ask("eyJ…"), async () => ask(await client.freshToken())),
    command("One event, delivered twice", trigger, async () => trigger),
    command("A token for an hour", `tollgate token --user ${userId}`, async () => `tollgate token --user ${userId}`),
  );
}

function command(name, shown, copied) {
  const box = element("div", "command");
  const head = element("div", "command-head");
  const copy = button("Copy", `Copy: ${name}`, async () => {
    try {
      await navigator.clipboard.writeText(await copied());
      copy.textContent = "Copied";
      say("Copied");
      setTimeout(() => (copy.textContent = "Copy"), 2000);
    } catch (problem) {
      show(at("problem"), problem);
    }
  });
  head.append(element("h3", "", name), copy);
  const text = element("pre");
  text.tabIndex = 0;
  text.append(element("code", "", shown));
  box.append(head, text);
  return box;
}

for (const part of [start, showPlans, () => live(() => user), () => showSwitches(api.switches())]) {
  part().catch((problem) => show(at("problem"), problem));
}
