// What the user may do, as it changes. A page that nobody sees gives its connection back: browsers allow few to one address.

const RETRY_FIRST = 500;
const RETRY_LONGEST = 10_000;

/** The events of a body: https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as the service uses it. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (text + part.value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = new Map(block.split("\n").map((line) => line.split(/: ?(.*)/, 2)));
      if (fields.has("data")) {
        yield { name: fields.get("event"), id: fields.get("id"), data: JSON.parse(fields.get("data")) };
      }
    }
  }
}

const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

/**
 * Calls `onState` with what the client's user may do, at once and at each change, and `onLost` with a Problem while that cannot be
 * had. Gives a function that ends it.
 */
export function follow(client, { onState, onLost }) {
  let version;
  let open = null;

  async function keepOpen(own) {
    let wait = RETRY_FIRST;
    while (!own.signal.aborted) {
      try {
        for await (const { name, id, data } of events(await client.entitlementEvents(version, own.signal))) {
          if (own.signal.aborted) {
            return;
          }
          wait = RETRY_FIRST;
          if (name === "entitlement") {
            version = id;
            onState(data);
          } else if (data.reason === "token") {
            await client.freshToken();
          }
        }
      } catch (problem) {
        if (!own.signal.aborted) {
          onLost(problem);
          // Who was told so is to hear that it is back.
          version = undefined;
        }
      }
      // Not all at the same moment.
      await pause(wait * (0.5 + Math.random() / 2));
      wait = Math.min(wait * 2, RETRY_LONGEST);
    }
  }

  function begin() {
    if (open === null && !document.hidden) {
      open = new AbortController();
      keepOpen(open);
    }
  }

  function pauseIt() {
    open?.abort();
    open = null;
  }

  const ended = new AbortController();
  const { signal } = ended;
  const onVisibility = () => (document.hidden ? pauseIt() : begin());
  document.addEventListener("visibilitychange", onVisibility, { signal });
  window.addEventListener("pagehide", pauseIt, { signal });
  window.addEventListener("pageshow", begin, { signal });
  begin();
  return () => {
    ended.abort();
    pauseIt();
  };
}
