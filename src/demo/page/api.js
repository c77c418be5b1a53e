// The service's interface as a frontend uses it, and the few questions that only the demo answers.

// What is told to the user where the service's own sentence is for programmers.
const WORDS = {
  ALREADY_ENTITLED: "You have this already, or it can be had only once. As a new user you can buy it again.",
  RATE_LIMITED: "That was often. Wait a moment, and try again.",
  STRIPE_ERROR: "The pay page could not be opened. Nothing was charged; try again.",
  UNAVAILABLE: "Not possible at this moment. Nothing was lost; try again in a few seconds.",
  NO_ANSWER: "The service does not answer. Is it still running?",
};

/** A refusal, in words for the user. */
export class Problem extends Error {
  constructor(code, sentence, status) {
    super(WORDS[code] ?? sentence);
    this.code = code;
    this.status = status;
  }
}

/** Asks, and gives the answer or throws a Problem. */
async function send(path, { method = "GET", headers = {}, body, signal } = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  let refusal;
  try {
    response = await fetch(path, { method, headers: { ...json, ...headers }, body: body && JSON.stringify(body), signal });
    refusal = response.ok ? null : await response.json();
  } catch {
    throw new Problem("NO_ANSWER");
  }
  if (refusal) {
    throw new Problem(refusal.code, refusal.error, response.status);
  }
  return response;
}

/** The same, for the JSON of an answer. */
async function ask(path, options) {
  const response = await send(path, options);
  return response.json().catch(() => {
    throw new Problem("NO_ANSWER");
  });
}

export const users = () => ask("/demo/users").then((answer) => answer.users);
export const plans = () => ask("/api/plans").then((answer) => answer.plans);
export const switches = () => ask("/demo/switches");
export const setSwitches = (wanted) => ask("/demo/switches", { method: "POST", body: wanted });
export const sandboxTime = () => ask("/demo/life");
export const happen = (userId, happening) => ask("/demo/life", { method: "POST", body: { userId, happening } });
export const portal = (userId) => ask("/demo/portal", { method: "POST", body: { userId } });
export const deliverAgain = (event) => ask("/demo/deliver-again", { method: "POST", body: { event } });

/** Everything that one user can ask. */
export class Client {
  #userId;
  #token;

  constructor(userId) {
    this.#userId = userId;
  }

  /** A session token as the sign-in service would issue it. It lives for minutes: a fresh one is good for longest. */
  async freshToken() {
    const { token } = await ask("/demo/session", { method: "POST", body: { userId: this.#userId } });
    this.#token = token;
    return token;
  }

  /** Gets a token if there is none yet. */
  async signIn() {
    this.#token ??= await this.freshToken();
  }

  async #asUser(path, { headers, how = ask, ...options } = {}) {
    const withToken = (token) => how(path, { ...options, headers: { ...headers, Authorization: `Bearer ${token}` } });
    await this.signIn();
    try {
      return await withToken(this.#token);
    } catch (problem) {
      if (problem.status !== 401) {
        throw problem;
      }
      return withToken(await this.freshToken());
    }
  }

  entitlements() {
    return this.#asUser("/api/entitlements");
  }

  /** A body of server-sent events, with no version but newer ones. `EventSource` cannot send a token. */
  async entitlementEvents(version, signal) {
    const headers = version === undefined ? {} : { "Last-Event-ID": version };
    const response = await this.#asUser("/api/entitlements/stream", { how: send, headers, signal });
    return response.body;
  }

  session(id) {
    return this.#asUser(`/api/checkout/session/${encodeURIComponent(id)}`);
  }

  /** One key for each click: a click that is sent twice opens one session. */
  buy(entitlementLevel) {
    const headers = { "Idempotency-Key": crypto.randomUUID() };
    return this.#asUser("/api/checkout/session", { method: "POST", headers, body: { entitlementLevel } });
  }
}
