// The page a buyer comes back to. It says what it waits for, and shows the level as soon as the purchase is in the ledger.

import * as api from "./api.js";
import { at, say } from "./dom.js";
import { follow } from "./live.js";
import { Strip } from "./strip.js";
import { chosen, payPage, showName } from "./user.js";
import { day } from "./words.js";

// Most is told by streams; asking is for when they are lost.
const ASK_EVERY = 2000;
const LONG_AFTER = 15_000;

const id = new URLSearchParams(location.search).get("session_id");
const user = chosen();
const begun = Date.now();

let client;
// As it was told last; `null` while nobody tells.
let told = null;
let ranks;
let isWithheld = false;
let isOver = false;
let asking = null;
let askAgain = false;

function tell(title, words) {
  if (at("result-title").textContent !== title) {
    at("result-title").textContent = title;
    document.title = `${title} · Tollgate demo`;
    say(`${title}. ${words}`);
  }
  at("result-words").textContent = words;
}

function stages(states) {
  at("stages").hidden = false;
  for (const item of at("stages").children) {
    const state = states[item.dataset.stage];
    item.className = state === "done" || state === "later" ? state : "waiting";
    item.querySelector(".stage-state").textContent = state === "later" ? "" : state;
  }
}

function end(title, words) {
  isOver = true;
  at("stages").hidden = true;
  tell(title, words);
}

/** One look at how the purchase stands. */
async function look() {
  const [session, entitlement] = await Promise.all([client.session(id), told ?? client.entitlements()]);
  const { entitlementLevel: bought, state } = session;
  // A higher level than the one that was bought hides it, and is as good.
  const isSeen = ranks.get(entitlement.entitlementLevel) >= ranks.get(bought);
  at("release").hidden = true;
  at("pay-page").hidden = true;
  if (session.granted && isSeen) {
    isOver = true;
    stages({ back: "done", applied: "done", seen: "done" });
    at("result").classList.add("good");
    at("gate").classList.add("open");
    const until = entitlement.expiresAt ? ` until ${day(entitlement.expiresAt)}` : "";
    at("release").hidden = !isWithheld;
    const seen = `Every reader sees ${bought}${until}.`;
    tell(`You are ${bought}`, isWithheld ? `${seen} Stripe was asked, since its webhook is held back; when it comes, it grants nothing twice.` : seen);
  } else if (session.granted) {
    stages({ back: "done", applied: "done", seen: "waiting" });
    at("gate").classList.toggle("open", entitlement.entitlementLevel !== "FREE");
    tell(`${bought} is yours`, `It is in the ledger. Readers see ${entitlement.entitlementLevel} at this moment.`);
  } else if (state === "pending") {
    stages({ back: "done", applied: "waiting for money", seen: "later" });
    showPayPage();
    tell("The bank transfer is on its way", `${bought} begins when the money arrives. That can take days, and this page may be closed.`);
  } else if (state === "expired") {
    end("This session has ended", "It was not paid, or the payment failed. Nothing was charged; the shop opens a new one.");
  } else {
    stages({ back: "done", applied: "waiting", seen: "later" });
    waitForStripe(bought);
  }
}

/** In the sandbox the buyer decides whether the money arrives. */
function showPayPage() {
  const url = payPage(id);
  at("pay-page").hidden = url === null;
  at("pay-page").href = url ?? "";
}

/** Stripe says that it is still open: the browser came here without paying. */
function waitForStripe(bought) {
  if (Date.now() - begun > LONG_AFTER) {
    tell("Not paid yet", "Stripe has been asked again and again. If you did not pay, go back to the shop and buy again.");
  } else {
    tell("Not paid yet", `Only Stripe’s word opens the gate to ${bought}, never this page’s address: in its webhook, or when it is asked.`);
  }
}

/** Looks once at a time; who wants to know meanwhile makes it look once more. */
async function refresh() {
  if (isOver) {
    return;
  }
  if (asking) {
    askAgain = true;
    return;
  }
  do {
    askAgain = false;
    asking = look();
    try {
      await asking;
    } catch (problem) {
      if (problem.status === 404) {
        end("No such purchase", `${user.name} has no checkout session with this id. It may be another user’s: choose who you are in the shop.`);
      } else {
        tell("One moment", problem.message);
      }
    }
    asking = null;
  } while (askAgain && !isOver);
}

at("release").addEventListener("click", async () => {
  try {
    await api.setSwitches({ ...(await api.switches()), withhold: false });
    isWithheld = false;
    at("release").hidden = true;
    at("main").focus({ preventScroll: true });
    refresh();
  } catch (problem) {
    at("result-words").textContent = problem.message;
  }
});

async function start() {
  client = new api.Client(user.userId);
  showName(user);
  try {
    const [plans, { withhold }] = await Promise.all([api.plans(), api.switches()]);
    ranks = new Map([["FREE", -1], ...plans.map(({ level, rank }) => [level, rank])]);
    isWithheld = withhold;
  } catch (problem) {
    end("One moment, please", `${problem.message} Then load this page again.`);
    return;
  }
  new Strip(user.userId, (_, isOld) => !isOld && refresh());
  follow(client, {
    onState: (entitlement) => {
      told = entitlement;
      refresh();
    },
    onLost: () => (told = null),
  });
  setInterval(refresh, ASK_EVERY);
  refresh();
}

if (user === null || id === null) {
  at("strip").hidden = true;
  end("Nothing to see here", "This page is where the pay page leads back to. Buy something in the shop first.");
} else {
  start();
}
