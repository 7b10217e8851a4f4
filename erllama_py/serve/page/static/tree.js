// The supervision tree: what runs, since when, how often it came back, and why the last time.

import { attribute, h, keyed, setText } from "./dom.js";
import { counted, duration, number } from "./format.js";

const TONES = { running: "ok", starting: "warn", backoff: "warn", stopping: "warn", stopped: "rest", finished: "rest",
  failed: "bad" };

/** Show the tree of a snapshot. */
export function showTree(parent, root) {
  keyed(parent, root === null ? [] : [root], (node) => node.name, makeBranch);
}

/** What is said of a part of the tree beside its name. */
export function state(node) {
  const up = node.uptime === null ? null : `up ${duration(node.uptime)}`;
  const restarts = node.restarts ? counted(node.restarts, "restart") : null;
  return [node.state, up, restarts, node.detail].filter(Boolean).join(" · ");
}

function makeBranch(first) {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  const name = h("bdi", { class: "name" }, first.name);
  const kind = h("span", { class: "kind muted" });
  const text = h("span", { class: "state muted" });
  const failure = h("p", { class: "failure", hidden: true });
  const children = h("ul", {});
  const more = h("p", { class: "muted small", hidden: true });
  const node = h("li", { "data-name": first.name }, h("p", { class: "row" }, dot, name, kind, text), failure, children,
    more);
  return {
    node,
    update(now) {
      attribute(node, "data-state", now.state);
      dot.dataset.tone = TONES[now.state] ?? "rest";
      setText(kind, now.kind);
      setText(text, state(now));
      failure.hidden = now.last_failure === null;
      setText(failure, now.last_failure === null ? "" : `Last failure: ${now.last_failure}`);
      children.hidden = now.children.length === 0;
      keyed(children, now.children, (child) => child.name, makeBranch);
      more.hidden = now.left_out === 0;
      setText(more, `and ${number(now.left_out)} more`);
    },
  };
}
