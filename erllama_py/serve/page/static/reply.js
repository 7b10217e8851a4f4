// One reply of a model as it comes over OpenAI's streaming API, put together from its chunks.

import { refusal } from "./api.js";
import { events } from "./sse.js";

/** Nothing has come yet. */
export const nothing = () => ({ text: "", thinking: "", calls: [], finish: null, usage: null });

/** A reply with another chunk. Throws `Refused` for a chunk that is an error: the stream was cut by the server. */
export function grown(reply, chunk) {
  if (chunk.error) throw refusal(chunk);
  const next = { ...reply, usage: chunk.usage ?? reply.usage };
  const choice = chunk.choices?.[0];
  if (choice === undefined) return next;
  const delta = choice.delta ?? {};
  next.text += delta.content ?? "";
  next.thinking += delta.reasoning_content ?? "";
  next.finish = choice.finish_reason ?? reply.finish;
  for (const part of delta.tool_calls ?? []) next.calls = withCall(next.calls, part);
  return next;
}

// A call comes with its id and name first; its arguments grow.
function withCall(calls, part) {
  const known = calls[part.index] ?? { id: "", name: "", arguments: "" };
  const changed = [...calls];
  changed[part.index] = {
    id: part.id ?? known.id,
    name: part.function?.name || known.name,
    arguments: known.arguments + (part.function?.arguments ?? ""),
  };
  return changed;
}

/** A reply as a message of the conversation. */
export function message(reply) {
  const said = { role: "assistant", content: reply.text };
  if (reply.thinking) said.reasoning_content = reply.thinking;
  if (reply.calls.length) {
    said.tool_calls = reply.calls.map(({ id, name, arguments: text }) => ({
      id, type: "function", function: { name, arguments: text },
    }));
  }
  return said;
}

/** The states of a reply to a request, each longer than the one before. Throws where it is refused, or cut. */
export async function* replies(api, request, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await api.ask("v1/chat/completions", { body, signal, accept: "text/event-stream" });
  let reply = nothing();
  for await (const { data } of events(response.body)) {
    if (data === "[DONE]") return;
    reply = grown(reply, JSON.parse(data));
    yield reply;
  }
  throw new Error("the connection was cut before the reply was complete");
}
