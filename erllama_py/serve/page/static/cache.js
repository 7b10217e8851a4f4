// The cache: what requests began with, why others began with nothing, the tiers, and the last prompts that were computed.

import { attribute, byId, h, keyed, setText } from "./dom.js";
import { bytes, clock, counted, measured, number, share } from "./format.js";

// What the counters' names mean.
const HITS = { exact: "the whole prompt, saved", partial: "a part of it, saved", live: "cells of another sequence",
  sticky: "the cells of its session" };
const MISSES = { empty: "nothing is saved for the model", diverges: "it diverges from what is saved",
  ends: "what is saved ends", evicted: "it was evicted", bad: "it was damaged", saving: "it was still being saved",
  other_parameters: "it was saved with other settings", unanswered: "the cache did not answer",
  unreadable: "it could not be read" };

/** Show what a snapshot says of the cache. */
export function showCache(now) {
  byId("cache-off").hidden = now.cache !== null;
  byId("cache-parts").hidden = now.cache === null;
  if (now.cache !== null) {
    showCounts(byId("hits"), now.cache.hits, HITS, "No request has hit yet.");
    showCounts(byId("misses"), now.cache.misses, MISSES, "No request has missed yet.");
  }
  keyed(byId("tiers"), now.tiers ?? [], (tier) => tier.name, makeTier);
  const missed = now.missed.length ? now.missed : [{ none: true }];
  keyed(byId("missed"), missed, (one) => (one.none ? "none" : `${one.at} ${one.api} ${one.model}`), makeMissed);
}

function showCounts(parent, counts, words, none) {
  const items = Object.entries(counts).map(([name, count]) => ({ name, count, text: words[name] ?? name }));
  items.sort((one, other) => other.count - one.count || (one.name < other.name ? -1 : 1));
  const most = Math.max(1, ...items.map((item) => item.count));
  const shown = items.length ? items : [{ name: "", text: none, count: null }];
  keyed(parent, shown.map((item) => ({ ...item, most })), (item) => item.name, makeCount);
}

function bar(...rects) {
  return h("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    h("rect", { class: "all", height: 4, width: 100 }), ...rects);
}

function makeCount() {
  const text = h("span");
  const count = h("span", { class: "number" });
  const part = h("rect", { class: "used", height: 4, width: 0 });
  const line = bar(part);
  const node = h("li", {}, h("p", {}, text, count), line);
  return {
    node,
    update(item) {
      node.classList.toggle("muted", item.count === null);
      setText(text, item.text);
      setText(count, item.count === null ? "" : number(item.count));
      attribute(line, "hidden", item.count === null);
      attribute(part, "width", (100 * share(item.count ?? 0, item.most)).toFixed(2));
    },
  };
}

function makeTier(first) {
  const facts = h("span", { class: "number" });
  const used = h("rect", { class: "used", height: 4, width: 0 });
  const more = h("p", { class: "muted small" });
  const problem = h("p", { class: "problem small", hidden: true });
  const name = h("span", {}, first.name, " ", h("span", { class: "muted" }, first.kind === first.name ? "" : first.kind));
  const node = h("li", { "data-tier": first.name }, h("p", {}, name, facts), bar(used), more, problem);
  return {
    node,
    update(tier) {
      setText(facts, `${bytes(tier.used_bytes)} of ${bytes(tier.quota_bytes)}`);
      attribute(used, "width", (100 * share(tier.used_bytes, tier.quota_bytes)).toFixed(2));
      const scanned = tier.opened < 1 ? `${Math.floor(100 * tier.opened)} % scanned` : null;
      const writable = tier.problem === null ? "writable" : "not writable";
      const rest = [counted(tier.rows, "row"), counted(tier.hits, "hit"), writable, scanned];
      setText(more, rest.filter(Boolean).join(" · "));
      problem.hidden = tier.problem === null;
      setText(problem, tier.problem ?? "");
    },
  };
}

// One that missed never changes.
function makeMissed(one) {
  if (one.none) return { node: h("li", { class: "muted" }, "None yet."), update() {} };
  const cached = `${number(one.cached_tokens)} of ${number(one.prompt_tokens)} prompt tokens cached`;
  const first = `first token after ${measured(one.first_token_seconds)}`;
  const about = [clock(one.at), one.model, cached, first].join(" · ");
  return { node: h("li", {}, h("p", {}, one.why), h("p", { class: "muted small" }, about)), update() {} };
}
