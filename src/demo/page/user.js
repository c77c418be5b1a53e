// What this browser keeps: who is at the page, since the service knows users by their tokens only, and where to pay.

const CHOSEN = "tollgate-demo-user";
const MADE = "tollgate-demo-users";

const stored = (key, otherwise) => {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
};

/** The user chosen last, if there is one. */
export const chosen = () => stored(CHOSEN, null);

export function choose(user) {
  localStorage.setItem(CHOSEN, JSON.stringify(user));
}

/** Users that were made up here. */
export const made = () => stored(MADE, []);

/** Somebody who has never bought anything. */
export function makeUp() {
  const userId = crypto.randomUUID();
  const user = { userId, name: `Guest ${userId.slice(0, 4)}` };
  localStorage.setItem(MADE, JSON.stringify([...made(), user]));
  return user;
}

/** Where a checkout session is paid, as long as this tab is open. */
export const payPage = (session) => sessionStorage.getItem(session);

export function keepPayPage({ sessionId, url }) {
  sessionStorage.setItem(sessionId, url);
}

export function showName(user) {
  for (const place of document.querySelectorAll("[data-user-name]")) {
    place.textContent = user.name;
  }
}
