// The server in numbers, in one line.

import { h, keyed, setText } from "./dom.js";
import { bytes, duration, number, rate } from "./format.js";

/** What is said of a snapshot, as pairs of a name and a value. */
export function facts(now) {
  const work = now.models.map((model) => model.work).filter((one) => one !== null);
  const sum = (field) => work.reduce((total, one) => total + (one[field] ?? 0), 0);
  const known = work.some((one) => one.generated_per_second !== null);
  const speed = (field) => `${known ? rate(sum(field)) : "–"} tokens/s`;
  return [
    ["State", now.server.status],
    ["Open requests", `${number(now.server.open)} of ${number(now.server.open_limit)}`],
    ["Waiting", number(sum("waiting") + sum("parked"))],
    ["Generated", speed("generated_per_second")],
    ["Computed", speed("computed_per_second")],
    ["Memory", now.memory === null ? "–" : memory(now.memory)],
    ["Up", duration(now.at - now.server.since)],
  ];
}

function memory({ used_bytes: used, reserved_bytes: reserved, budget_bytes: budget }) {
  return budget === null ? bytes(used) : `${bytes(used + reserved)} of ${bytes(budget)}`;
}

/** Show them. */
export function showStrip(parent, now) {
  keyed(parent, facts(now), ([name]) => name, makeFact);
  parent.dataset.status = now.server.status;
}

function makeFact([name]) {
  const value = h("span", { class: "value" });
  const node = h("p", { class: "fact", "data-fact": name }, h("span", { class: "muted" }, name), value);
  return { node, update: ([, text]) => setText(value, text) };
}
