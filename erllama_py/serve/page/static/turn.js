// A turn of the chat as it is seen: what was said, what the model thinks, calls and says, and what it took.

import { said } from "./api.js";
import { attribute, h, keyed, setText } from "./dom.js";
import { measured, number, rate } from "./format.js";
import { showText } from "./text.js";

/** What the user said. */
export function userTurn(text) {
  return h("article", { class: "turn user" }, h("h3", { class: "who" }, "You"), h("p", { class: "prose", dir: "auto" }, text));
}

/** A reply, from the request on. `now` gives seconds. */
export class ReplyView {
  constructor(model, { json = false, now = () => performance.now() / 1000 } = {}) {
    this.json = json;
    this.now = now;
    this.began = now();
    this.first = null; // when its first piece came
    this.answered = null; // when its text or a call began: until then it thinks
    this.summary = h("summary", {}, "Thinking…");
    this.thought = h("p", { class: "prose muted", dir: "auto" });
    this.thinking = h("details", { class: "thinking", hidden: true }, this.summary, this.thought);
    this.text = h("div", { class: "text" });
    this.calls = h("ul", { class: "calls" });
    this.wait = h("p", { class: "muted wait" }, "Waiting for the first token…");
    this.end = h("p", { class: "muted small end" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.node = h("article", { class: "turn reply", "aria-busy": "true" }, h("h3", { class: "who", dir: "auto" }, model), this.wait,
      this.thinking, this.text, this.calls, this.end, this.problem);
  }

  /** What has come of it. */
  show(reply) {
    const now = this.now();
    this.first ??= reply.text || reply.thinking || reply.calls.length ? now : null;
    if (reply.text || reply.calls.length) this.answered ??= now;
    this.wait.hidden = this.first !== null;
    this.#showThinking(reply, now);
    showText(this.text, reply.text);
    keyed(this.calls, reply.calls.filter(Boolean), (call) => call.id, makeCall);
  }

  #showThinking(reply, now) {
    this.thinking.hidden = reply.thinking === "";
    setText(this.thought, reply.thinking);
    const over = this.answered !== null || reply.finish !== null;
    setText(this.summary, over ? `Thought for ${measured((this.answered ?? now) - this.first)}` : "Thinking…");
  }

  /** A call has its result. */
  result(call, text) {
    const node = [...this.calls.children].find((child) => child.dataset.call === call.id);
    node?.append(h("p", { class: "result" }, h("span", { class: "muted" }, "gives "), h("code", {}, text)));
  }

  /** It is complete. */
  done(reply) {
    this.show(reply);
    this.#over();
    if (this.json && reply.text) this.#showJson(reply);
    setText(this.end, this.#took(reply));
  }

  /** It was stopped, with what it has. */
  stopped() {
    this.#over();
    setText(this.end, "Stopped.");
  }

  /** It failed; `again` asks once more. */
  failed(error, again) {
    this.#over();
    this.problem.hidden = false;
    const cut = this.first === null ? "" : "The reply was cut: ";
    setText(this.problem, cut + said(error));
    this.button = h("button", { type: "button", class: "quiet", onclick: again }, "Try again");
    this.node.append(this.button);
  }

  /** Something else was asked since: it cannot be asked again from here. */
  passed() {
    this.button?.remove();
  }

  #over() {
    attribute(this.node, "aria-busy", "false");
    this.wait.hidden = true;
  }

  #showJson(reply) {
    let text;
    try {
      text = JSON.stringify(JSON.parse(reply.text), null, 2);
    } catch {
      this.text.append(h("p", { class: "muted small" }, "This is no whole JSON: the reply was cut short."));
      return;
    }
    this.text.replaceChildren(h("pre", { tabindex: "0", "aria-label": "JSON" }, h("code", {}, text)));
  }

  #took({ usage, finish }) {
    const seconds = this.now() - (this.first ?? this.now());
    const facts = [];
    if (usage) {
      const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
      // The first token is there when the clock begins.
      const speed = usage.completion_tokens > 1 && seconds > 0 ? (usage.completion_tokens - 1) / seconds : null;
      facts.push(`${number(usage.completion_tokens)} tokens`, `${rate(speed)} tokens/s`);
      facts.push(`${number(cached)} of ${number(usage.prompt_tokens)} prompt tokens cached`);
    }
    if (this.first !== null) facts.push(`first after ${measured(this.first - this.began)}`);
    if (finish === "length") facts.push("ended by its length");
    return facts.join(" · ");
  }
}

function makeCall(first) {
  const text = h("code", {});
  const node = h("li", { "data-call": first.id }, h("span", { class: "muted" }, "calls "), text);
  return { node, update: (call) => setText(text, `${call.name}(${call.arguments})`) };
}
