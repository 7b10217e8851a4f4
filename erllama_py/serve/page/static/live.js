// The live feed: followed while the page is seen, taken up again when it breaks, and it says which of the two it is.

import { Refused, Unreachable } from "./api.js";
import { events } from "./sse.js";

const FIRST_SECONDS = 0.5;
const MOST_SECONDS = 15;
const SILENCE_SECONDS = 40; // the server says something every 15 s at least: a connection this silent is dead

/** How long to wait before the next try, after so many that failed; `random` in [0, 1) spreads many pages out. */
export function backoff(failed, random) {
  const most = Math.min(MOST_SECONDS, FIRST_SECONDS * 2 ** Math.min(failed, 10));
  return most * (0.75 + random / 4);
}

/**
 * Follow the feed until `signal`. `tell` gets the states: `{kind: "live"}`, `{kind: "hidden"}`, `{kind: "waiting",
 * seconds, why}`. Throws `Refused` where asking again would not help: no key, no operator.
 */
export async function follow(api, { signal, show, tell }) {
  let failed = 0;
  while (!signal.aborted) {
    if (document.hidden) {
      tell({ kind: "hidden" });
      await woken(null, signal);
      continue;
    }
    let why;
    try {
      why = await once(api, signal, (snapshot) => {
        failed = 0;
        tell({ kind: "live" });
        show(snapshot);
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && (error.status === 401 || error.status === 403)) throw error;
      why = error instanceof Unreachable ? "gone" : error instanceof Refused ? error.message : "lost";
    }
    if (why === "hidden") continue;
    const seconds = backoff(failed++, Math.random());
    tell({ kind: "waiting", seconds, why });
    await woken(seconds, signal);
  }
}

// One connection, until it ends; gives why. What hides the page, or silence, ends it.
async function once(api, signal, show) {
  const ends = new AbortController();
  let why = "lost";
  const end = (reason) => {
    why = reason;
    ends.abort();
  };
  const hide = () => document.hidden && end("hidden");
  let silence = setTimeout(end, SILENCE_SECONDS * 1000, "lost");
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(end, SILENCE_SECONDS * 1000, "lost");
  };
  document.addEventListener("visibilitychange", hide);
  try {
    const both = AbortSignal.any([signal, ends.signal]);
    const response = await api.ask("erllama/live", { signal: both, accept: "text/event-stream" });
    for await (const { event, data } of events(response.body, heard)) {
      if (event === "snapshot") show(JSON.parse(data));
      else if (event === "end") return "ended";
    }
    return why;
  } catch (error) {
    if (ends.signal.aborted) return why;
    throw error;
  } finally {
    clearTimeout(silence);
    document.removeEventListener("visibilitychange", hide);
  }
}

// Wait for so many seconds, or until the page is seen again or the network is back.
function woken(seconds, signal) {
  return new Promise((resolve) => {
    const timer = seconds === null ? null : setTimeout(done, seconds * 1000);
    function seen() {
      if (!document.hidden) done();
    }
    function done() {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      window.removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      resolve();
    }
    document.addEventListener("visibilitychange", seen);
    window.addEventListener("online", done);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
