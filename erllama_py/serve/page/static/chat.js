// The chat: one conversation, its options, and what is under way. Tools of the page are answered by the page.

import { byId, h } from "./dom.js";
import { message, nothing, replies } from "./reply.js";
import { ReplyView, userTurn } from "./turn.js";
import { TOOLS, answer } from "./tools.js";

const MOST_ROUNDS = 5; // of calls of tools, before a reply has to come

/** What a request asks beside its conversation, of the fields of the form. Throws an `Error` that says what is wrong. */
export function requestOptions({ temperature, maxTokens, useTools, useJson, schema }) {
  const options = {};
  if (temperature !== "") options.temperature = Number(temperature);
  if (maxTokens !== "") options.max_tokens = Number(maxTokens);
  if (useTools) options.tools = TOOLS;
  if (useJson) {
    let parsed;
    try {
      parsed = JSON.parse(schema);
    } catch (error) {
      throw new Error(`The schema is no JSON: ${error.message}`);
    }
    options.response_format = { type: "json_schema", json_schema: { name: "reply", schema: parsed, strict: true } };
  }
  return options;
}

/** The chat of this page. */
export class Chat {
  #messages = [];
  #stop = null; // of the reply under way
  #failed = null; // how many messages there were before a turn that failed
  #broken = null; // the view of its reply

  /** `unknown(error)` is called where the server does not know the key any more. */
  constructor(api, unknown) {
    this.api = api;
    this.unknown = unknown;
    this.log = byId("log");
    this.box = byId("message");
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => this.clear());
    byId("use-json").addEventListener("change", (event) => (byId("schema").hidden = !event.target.checked));
    this.box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.#submit(event);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#stop !== null && !byId("drill").open) this.stop();
    });
  }

  /** What can be asked, by name; the choice stays where it can. */
  models(names) {
    const select = byId("model");
    const chosen = select.value;
    if ([...select.options].map((one) => one.value).join("\n") === names.join("\n")) return;
    select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(chosen)) select.value = chosen;
  }

  /** End the reply under way, with what it has. */
  stop() {
    this.#stop?.abort();
  }

  /** Begin again. */
  clear() {
    this.stop();
    this.#messages = [];
    this.#failed = null;
    this.log.replaceChildren();
    this.box.focus();
  }

  #submit(event) {
    event.preventDefault();
    const text = this.box.value.trim();
    if (text === "" || this.#stop !== null) return;
    const options = this.#options();
    if (options === null) return;
    if (this.#failed !== null) this.#messages.length = this.#failed; // its question was never answered
    this.box.value = "";
    this.#add(userTurn(text));
    const before = this.#messages.length;
    this.#messages.push({ role: "user", content: text });
    this.#run(options, before);
  }

  #options() {
    const problem = byId("options-problem");
    try {
      problem.textContent = "";
      return requestOptions({
        temperature: byId("temperature").value, maxTokens: byId("max-tokens").value,
        useTools: byId("use-tools").checked, useJson: byId("use-json").checked, schema: byId("schema").value,
      });
    } catch (error) {
      byId("options").open = true;
      problem.textContent = error.message;
      byId("schema").focus();
      return null;
    }
  }

  // One turn: replies until one calls no tool. `before` is where the conversation stood before it.
  async #run(options, before) {
    const stop = (this.#stop = new AbortController());
    const messages = this.#messages; // of this conversation, also where another one begins meanwhile
    this.#failed = null;
    this.#broken?.passed();
    this.#broken = null;
    this.#busy(true);
    try {
      for (let round = 0; round < MOST_ROUNDS; round += 1) {
        const last = round === MOST_ROUNDS - 1 && options.tools ? { ...options, tool_choice: "none" } : options;
        if (!(await this.#reply(messages, last, stop.signal, () => this.#again(options, before)))) {
          if (messages === this.#messages) this.#failed = before;
          return;
        }
        if (messages.at(-1).role !== "tool" || stop.signal.aborted) return;
      }
    } finally {
      if (this.#stop === stop) {
        this.#stop = null;
        this.#busy(false);
      }
    }
  }

  #again(options, before) {
    if (this.#stop !== null || this.#failed !== before) return;
    this.#messages.length = before + 1; // up to the question
    this.#run(options, before);
  }

  // One reply, and the results of its calls; whether it came, or was stopped by its reader.
  async #reply(messages, options, signal, again) {
    const model = byId("model").value;
    const view = new ReplyView(model, { json: options.response_format !== undefined });
    this.#add(view.node);
    let reply = nothing();
    let frame = null;
    const draw = () => {
      frame = null;
      this.#keepingUp(() => view.show(reply));
    };
    try {
      for await (reply of replies(this.api, { model, messages: this.#with(messages), ...options }, signal)) {
        frame ??= requestAnimationFrame(draw);
      }
    } catch (error) {
      if (error.status === 401) {
        this.unknown(error);
        return false;
      }
      view.show(reply);
      const stopped = error.name === "AbortError";
      this.#keepingUp(() => (stopped ? view.stopped() : view.failed(error, again)));
      if (stopped) messages.push({ role: "assistant", content: reply.text });
      else this.#broken = view;
      return stopped;
    } finally {
      cancelAnimationFrame(frame);
    }
    messages.push(message(reply));
    this.#keepingUp(() => {
      view.done(reply);
      for (const call of reply.calls) messages.push(this.#answered(view, call));
    });
    return true;
  }

  #answered(view, call) {
    const content = answer(call);
    view.result(call, content);
    return { role: "tool", tool_call_id: call.id, content };
  }

  #with(messages) {
    const system = byId("system").value.trim();
    return system ? [{ role: "system", content: system }, ...messages] : messages;
  }

  #add(node) {
    this.log.append(node);
    this.log.scrollTop = this.log.scrollHeight;
  }

  // The end of the log stays in sight if it was; who has scrolled up reads on undisturbed.
  #keepingUp(change) {
    const log = this.log;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    change();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  #busy(is) {
    byId("stop").hidden = !is;
    byId("send").hidden = is;
    // What had the focus may be gone.
    if ([document.body, byId("send"), byId("stop")].includes(document.activeElement)) this.box.focus();
  }
}
