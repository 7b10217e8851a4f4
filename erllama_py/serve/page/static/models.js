// The models: what each does, how fast, what waits for it, and what its sequences hold.

import { attribute, h, keyed, setText } from "./dom.js";
import { bytes, counted, duration, number, rate, share } from "./format.js";

const SECONDS = 60; // of the curve
const WIDTH = 120;
const HEIGHT = 28;
const TONES = { idle: "rest", prefilling: "busy", generating: "busy", restarting: "warn", loading: "warn",
  waiting: "warn", unloading: "warn", hanging: "bad", failed: "bad", unloaded: "rest" };

/** Show the models of a snapshot. `drill(model, card)` is asked to crash one. */
export function showModels(parent, now, drill) {
  const known = now.models.map((model) => ({ ...model, drills: now.server.drills, at: now.at }));
  const items = known.length ? known : [{ id: "", none: true }];
  const keyOf = (model) => `${model.none ? "none" : "model"} ${model.id}`;
  keyed(parent, items, keyOf, (model) => (model.none ? makeNone() : new Card(model, drill)));
}

function makeNone() {
  return { node: h("p", { class: "panel muted" }, "No model is served."), update() {} };
}

/** What a model does in a word: where it stands while it is not loaded, and else its phase. */
export const doing = ({ standing, work }) =>
  standing.state === "loaded" && work !== null ? work.phase : standing.state;

/** What a phase is coloured as. */
export const tone = (phase) => TONES[phase] ?? "rest";

/** The points of a curve over the last values, the newest at the right; `most` is its height. */
export function points(values, most) {
  const step = WIDTH / (SECONDS - 1);
  return values
    .map((value, index) => {
      const x = WIDTH - (values.length - 1 - index) * step;
      return `${x.toFixed(1)},${(HEIGHT - 1 - (HEIGHT - 2) * share(value, most)).toFixed(1)}`;
    })
    .join(" ");
}

class Card {
  constructor(model, drill) {
    this.model = model;
    this.speeds = [];
    this.phase = h("span", { class: "pill" });
    this.about = h("p", { class: "muted about" });
    this.line = h("polyline", { points: "", fill: "none" });
    this.speed = h("span", { class: "speed" });
    this.computed = h("span");
    this.queue = h("span");
    this.used = h("rect", { class: "used", height: 4, width: 0 });
    this.kept = h("rect", { class: "kept", height: 4, width: 0 });
    this.cells = h("p", { class: "muted small" });
    this.sequences = h("ul", { class: "sequences", "aria-label": `Sequences of ${model.id}` });
    this.limits = h("p", { class: "small warn-text", hidden: true });
    this.process = h("p", { class: "muted small process" });
    this.crashed = h("p", { class: "small crashed", hidden: true });
    this.counts = h("p", { class: "muted small" });
    this.crash = h("button", { type: "button", class: "quiet", onclick: () => drill(this.model, this) }, "Crash…");
    attribute(this.crash, "aria-label", `Crash ${model.id}, a drill`);
    this.drill = h("ol", { class: "drill small", role: "status", hidden: true });
    this.node = h(
      "article",
      { class: "panel card", "data-model": model.id },
      h("header", {}, h("h3", { dir: "auto" }, model.id), this.phase),
      this.about,
      (this.body = h("div", { class: "body" }, this.#rates(), this.#cells(), this.sequences)),
      this.limits,
      this.process,
      this.crashed,
      h("footer", {}, this.counts, this.crash),
      this.drill,
    );
  }

  #rates() {
    const curve = h("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
      "aria-hidden": "true" }, this.line);
    const fact = (name, value, more) => h("div", {}, h("p", { class: "muted small" }, name), h("p", {}, value), more);
    return h("div", { class: "rates" }, fact("Generated, tokens/s", this.speed), curve,
      fact("Computed, tokens/s", this.computed), fact("Requests", this.queue));
  }

  #cells() {
    const bar = h("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
      h("rect", { class: "all", height: 4, width: 100 }), this.used, this.kept);
    return h("div", { class: "cells" }, bar, this.cells);
  }

  update(model) {
    const { work } = (this.model = model);
    const phase = doing(model);
    setText(this.phase, phase);
    this.phase.dataset.tone = tone(phase);
    this.body.hidden = work === null;
    this.crash.hidden = work === null || !model.drills;
    setText(this.about, about(model));
    setText(this.counts, counts(model));
    const problem = model.standing.problem ?? (work?.save_limits ? `Not saved: ${work.save_limits}` : null);
    this.limits.hidden = problem === null;
    setText(this.limits, problem ?? "");
    this.process.hidden = work === null;
    this.crashed.hidden = !work?.last_crash;
    if (work === null) return;
    setText(this.process, process(work));
    setText(this.crashed, work.last_crash ? crashed(work, model.at) : "");
    this.#showRates(work);
    this.#showCells(work);
    keyed(this.sequences, sequenceItems(work), (item) => item.key, makeSequence);
  }

  #showRates(work) {
    this.speeds = [...this.speeds, work.generated_per_second ?? 0].slice(-SECONDS);
    attribute(this.line, "points", points(this.speeds, Math.max(1, ...this.speeds)));
    setText(this.speed, rate(work.generated_per_second));
    setText(this.computed, rate(work.computed_per_second));
    const parked = work.parked ? `, ${number(work.parked)} parked` : "";
    const embedding = work.embedding ? `, ${number(work.embedding)} embedding` : "";
    setText(this.queue, `${number(work.active)} at work, ${number(work.waiting)} waiting${parked}${embedding}`);
  }

  #showCells(work) {
    const kept = 100 * share(work.cells_kept, work.cells);
    const used = 100 * share(work.cells_in_use - work.cells_kept, work.cells);
    attribute(this.used, "width", used.toFixed(2));
    attribute(this.kept, "x", used.toFixed(2));
    attribute(this.kept, "width", kept.toFixed(2));
    const busy = work.cells_in_use - work.cells_kept;
    setText(this.cells, `${number(busy)} cells at work, ${number(work.cells_kept)} kept, of ${number(work.cells)}`);
  }
}

function about({ standing, work, aliases }) {
  const names = aliases.length ? `also ${aliases.join(", ")}` : null;
  const memory = standing.memory_bytes ? `${bytes(standing.memory_bytes)} ${work === null ? "once loaded" : "of memory"}` : null;
  const weights = work?.weights_bytes ? `${bytes(work.weights_bytes)} weights` : null;
  return [work && (work.description || work.quant_type), weights, memory, names].filter(Boolean).join(" · ");
}

/** Where its engine runs. */
export function process({ isolation, pid }) {
  const where = isolation === "process" ? "In a process of its own" : "On a thread of the server";
  return pid === null ? where : `${where}, process ${pid}`;
}

/** Its last crash: when, what ended it in which operation, and how many requests went on, in all crashes together. */
export function crashed({ last_crash: crash, continued }, at) {
  const when = `Crashed ${duration(Math.max(0, at - crash.at))} ago`;
  const where = crash.pid === null ? "" : `, process ${crash.pid}`;
  const about = crash.requests ? ` · ${counted(crash.requests, "request")} in it` : "";
  const went = continued ? ` · ${counted(continued, "request")} went on` : "";
  return `${when}${where}: ${crash.problem}${about}${went}`;
}

// What it has done, and when it comes or goes where it does so by itself.
function counts({ standing, work, at }) {
  const facts = [];
  if (work !== null) {
    facts.push(counted(work.requests, "request"), `${number(work.failed)} failed`, counted(work.restarts, "restart"));
    facts.push(`${number(work.threads_used)} of ${counted(work.threads, "thread")}`);
  } else if (standing.load === "demand") {
    facts.push("loaded when it is asked for");
  }
  if (standing.waiting) facts.push(`${counted(standing.waiting, "request waits", "requests wait")} for it`);
  if (standing.loads > 1) facts.push(counted(standing.loads, "load"));
  if (standing.pinned) facts.push("pinned");
  if (standing.expires_at !== null) facts.push(`unloaded in ${duration(standing.expires_at - at)}`);
  return facts.join(" · ");
}

// Sequences that do something, each by itself, and how many are free.
function sequenceItems(work) {
  const busy = work.sequences.filter((one) => one.doing !== "free");
  const items = busy.map((one) => ({ ...one, key: `${one.reproducible ? "r" : "s"}${one.number}` }));
  const free = work.sequences.length - busy.length;
  const rest = [free && `${number(free)} free`, work.sequences_left_out && `${number(work.sequences_left_out)} more`];
  const text = rest.filter(Boolean).join(", ");
  return text ? [...items, { key: "rest", text }] : items;
}

function makeSequence() {
  const node = h("li", {});
  return {
    node,
    update(item) {
      node.dataset.doing = item.doing ?? "rest";
      setText(node, item.text ?? sequenceText(item));
    },
  };
}

function sequenceText(item) {
  const parts = [`${item.number}${item.reproducible ? " r" : ""} ${item.doing}`];
  if (item.prompt_tokens) parts.push(`prompt ${number(item.prompt_tokens)}`);
  parts.push(`${number(item.cells)} cells`);
  if (item.in_session) parts.push("session");
  return parts.join(" · ");
}
