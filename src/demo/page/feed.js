// The stream of steps. Browsers allow few connections to one address, so a page that nobody sees gives its own back.

/** Calls `onStep` for each step once, `onRestart` when the service has begun to count anew, `onState` with true while live. */
export function watch({ onStep, onRestart, onState }) {
  // When each step happened, by its id.
  const known = new Map();
  let source = null;
  let retry;

  function take(message) {
    const step = JSON.parse(message.data);
    if (known.get(step.id) === step.at) {
      return;
    }
    if (known.has(step.id)) {
      known.clear();
      onRestart();
    }
    known.set(step.id, step.at);
    onStep(step);
  }

  function open() {
    clearTimeout(retry);
    source = new EventSource("/demo/activity");
    source.onopen = () => onState(true);
    source.onmessage = take;
    source.onerror = () => {
      onState(false);
      // A browser comes back by itself after a loss, but not after a refusal.
      if (source?.readyState === EventSource.CLOSED) {
        retry = setTimeout(open, 5000);
      }
    };
  }

  function close() {
    clearTimeout(retry);
    source?.close();
    source = null;
    onState(false);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
    } else if (source === null) {
      open();
    }
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => event.persisted && source === null && open());
  open();
}
