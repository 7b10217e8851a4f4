// The drill: crash a model, after a question, and watch it come back.

import { Refused, said } from "./api.js";
import { byId, h } from "./dom.js";
import { clock, counted, measured } from "./format.js";

const PATIENCE_SECONDS = 180; // large weights take long to load again
const AGAIN_MS = 100;

let closed = Promise.resolve(); // once the last question is over: a dialog closes before that is told

/** Crashes models of a server. `latest` gives the last snapshot, or null. */
export class Drill {
  constructor(api, latest) {
    this.api = api;
    this.latest = latest;
    this.dialog = byId("drill");
  }

  /** Ask whether a model is to be crashed, and do it. `card` shows what comes of it. */
  async ask(model, card) {
    await closed;
    if (this.dialog.open) return;
    byId("drill-text").textContent =
      `${model.id} ends as by a real fault. Its supervisor frees its memory and loads it again; open replies pause, and go on.`;
    const own = model.work?.isolation === "process";
    for (const option of byId("drill-where").querySelectorAll("[data-native]")) option.hidden = option.disabled = !own;
    byId("drill-where").value = own ? "process" : "thread";
    this.dialog.returnValue = "cancel"; // Escape changes nothing of it
    this.dialog.showModal();
    closed = new Promise((resolve) => this.dialog.addEventListener("close", resolve, { once: true }));
    await closed;
    card.crash.focus();
    if (this.dialog.returnValue === "crash") await this.run(model, card, byId("drill-where").value);
  }

  /** Crash it, and say what happens. */
  async run(model, card, where) {
    const told = (text) => card.drill.append(h("li", {}, text));
    card.drill.replaceChildren();
    card.drill.hidden = false;
    card.crash.disabled = true;
    try {
      const path = `erllama/models/${model.id.split("/").map(encodeURIComponent).join("/")}/crash`;
      const before = model.work.continued;
      const { restarts } = await this.api.json(path, { body: { where } });
      const began = performance.now();
      told(`${clock(Date.now() / 1000)}: crashed on purpose (${where}). Waiting for an answer.`);
      await this.#answered(model, began);
      const seconds = (performance.now() - began) / 1000;
      const count = await this.#restarted(model.id, restarts);
      told(`It answers again, ${measured(seconds)} after the crash.`);
      if (count === null) told("No restart was seen: the model answered without one.");
      else told(`It has ${counted(count, "restart")} now, before it had ${restarts}.`);
      const went = (this.#now(model.id)?.work?.continued ?? before) - before;
      if (went > 0) told(`${counted(went, "request")} went on.`);
    } catch (error) {
      told(said(error));
    } finally {
      card.crash.disabled = false;
    }
  }

  // Ask for one token until it comes. The request itself may meet the crash.
  async #answered(model, began) {
    const [path, body] = model.work.can_generate
      ? ["v1/chat/completions", { model: model.id, messages: [{ role: "user", content: "ping" }], max_tokens: 1 }]
      : ["v1/embeddings", { model: model.id, input: "ping" }];
    for (;;) {
      try {
        await this.api.json(path, { body });
        return;
      } catch (error) {
        const temporary = error instanceof Refused && (error.status === 503 || error.status === 429) && error.retryAfter;
        if (!temporary || performance.now() - began > PATIENCE_SECONDS * 1000) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  #now(id) {
    return this.latest()?.models.find((one) => one.id === id);
  }

  // How often it has come back, once the feed says that it did; null where it does not.
  async #restarted(id, before) {
    for (let tries = 0; tries < 50; tries += 1) {
      const model = this.#now(id);
      if (model?.work && model.work.restarts > before) return model.work.restarts;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
    return null;
  }
}
