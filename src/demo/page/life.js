// A subscriber's life: buttons that let months pass in the sandbox, and money go back. What comes of it shows in the strip.

import * as api from "./api.js";
import { at, busy, isBusy, say } from "./dom.js";
import { date } from "./words.js";

/** Makes the buttons act for whoever `user` gives. */
export function live(user) {
  const buttons = [...at("life").querySelectorAll("button")];

  function show(problem) {
    at("life-problem").textContent = problem?.message ?? "";
    at("life-problem").hidden = problem === null;
  }

  function showTime({ now }) {
    at("life-time").textContent = date(now * 1000);
  }

  async function press(pressed) {
    buttons.forEach((other) => busy(other, true));
    show(null);
    try {
      const { happening } = pressed.dataset;
      if (happening === undefined) {
        location.assign((await api.portal(user().userId)).url);
      } else {
        const time = await api.happen(user().userId, happening);
        showTime(time);
        say(`Done: ${pressed.textContent}. In the sandbox it is ${date(time.now * 1000)}`);
      }
    } catch (problem) {
      show(problem);
    }
    buttons.forEach((other) => busy(other, false));
  }

  buttons.forEach((pressed) => pressed.addEventListener("click", () => isBusy(pressed) || press(pressed)));
  return api.sandboxTime().then(showTime);
}
