"""What one request came to: its completion, and what is in it."""

from __future__ import annotations

import json
from typing import Any, Literal

from erllama_py.results.plain import Result

CacheHitKind = Literal["exact", "partial", "sticky", "live", "cold"]
FinishReason = Literal["stop", "length", "cancelled", "deadline"]
EARLY: frozenset[FinishReason] = frozenset({"cancelled", "deadline"})
"""Why a reply may have ended before the model or its length ended it."""


class CacheDelta(Result, frozen=True):
    """What a request read from the cache and gave to it, in tokens."""

    read: int
    """Tokens of the prompt that were reused."""
    created: int
    """Tokens that were copied out of the cells to be saved."""


class KeptPrefix(Result, frozen=True, kw_only=True):
    """What a request asked to be kept: one for each of its `keep`, in their order."""

    tokens: int
    """Tokens of the prompt up to there; 0 where its chat template shows nothing that is always the same."""
    created: int
    """Of these, tokens that this request has copied out to be saved: what was saved already is not among them."""
    seconds: float
    """For how long, from each use on."""


class Stats(Result, frozen=True, kw_only=True):
    """Where the time of one request went. Times are in seconds."""

    queued_seconds: float
    """From the call until it had a sequence, rendering, tokenizing and waiting for the model or a session included."""
    prefill_seconds: float
    """From then until the first token was drawn."""
    decode_seconds: float
    """From the first token to the last."""
    lookup_seconds: float
    """Until it was known what to begin with, waiting for a save under way or for a shared prompt included."""
    restore_seconds: float
    """Until all rows of the hit were in the cells; 0.0 without rows."""
    first_token_seconds: float
    """Queued + look-up + restore + prefill: what a caller waits for the first token."""
    prefill_tokens: int
    """Prompt tokens that had to be computed."""
    restored_bytes: int
    """Bytes of the rows that were restored."""
    decodes: int
    """Decode steps after the prefill; fewer than tokens where a structure forced some of them."""
    tokens_per_second: float
    """Tokens after the first by decode time; 0.0 without any."""
    seed: int
    """Seed of the draw; it repeats a reply when the same prompt starts from the same cells."""
    tier: str | None
    """The tier that a hit came from; `None` for live cells and for a miss."""
    miss_reason: str | None
    """Why nothing, or not more, was reused; `None` for a full hit."""
    parks: int = 0
    """How often it was parked: taken out of its cells for others, and put back."""
    crashes: int = 0
    """How often its engine ended while it was open, and it went on in the next one."""


class TopLogprob(Result, frozen=True, gc=False):
    """One of the likeliest tokens at a place of a text."""

    token_id: int
    """Its id."""
    token: str
    """Its text; bytes that are no UTF-8 by themselves show as U+FFFD."""
    bytes: str
    """Its UTF-8 bytes in hex, maybe a part of a character; of a control token its name."""
    logprob: float
    """Natural logarithm of its probability."""


class TokenLogprob(TopLogprob, frozen=True, gc=False):
    """How likely a token was, given all before it. Logarithms are natural; all by the softmax of the model's logits."""

    top_logprobs: tuple[TopLogprob, ...] = ()
    """The likeliest tokens there, the likeliest first; the token itself is among them where it is one of them."""
    logprob_after: float | None = None
    """Of what all steps of the chain have left: the draw was by these odds; 0.0 where the likeliest token is taken.
    `None` unless it was asked for."""
    top_logprobs_after: tuple[TopLogprob, ...] = ()
    """The likeliest of what was left; what could not be drawn is not there."""


class ToolCall(Result, frozen=True, kw_only=True):
    """A tool that the reply calls."""

    id: str
    """Its own; the message with the tool's result names it as `tool_call_id`."""
    name: str
    """The tool's name; empty where a malformed call has none."""
    arguments: dict[str, Any]
    """By name; under a grammar they always obey the tool's schema."""
    text: str
    """What the model wrote, markers included."""
    problem: str | None = None
    """Why it cannot be carried out: no JSON, an unknown tool, cut short. `None` for a valid call."""


class Completion(Result, frozen=True, kw_only=True):
    """The answer to one prompt. Counts are in tokens."""

    reply: str
    """The text, up to a stop sequence."""
    generated: list[int]
    """Token ids as sampled, without the end token; their text may extend beyond `reply`."""
    prompt_tokens: int
    """Tokens of the prompt, the begin token counted."""
    context_tokens: int
    """Prompt and generated together."""
    committed_tokens: int
    """Of these, how many lie in the KV cells now; the last sampled one never does."""
    finish_key: str | None
    """The key of the row saved at the end, 64 hex digits; `None` when none was due."""
    cache_hit_kind: CacheHitKind
    """`"exact"`: the whole prompt was saved; `"partial"`: a part of it; `"live"`: cells of another sequence were
    shared or taken over; `"sticky"`: it continued in its session's cells; `"cold"`: nothing was reused."""
    finish_reason: FinishReason
    """`"stop"`: the model ended, or a stop sequence was met; `"length"`; `"cancelled"`: by its caller, or the model was
    stopped; `"deadline"`: its time was over."""
    stop_sequence: str | None
    """The stop sequence that was met."""
    stop_token_id: int | None = None
    """The token that ended the reply and is not in it: the model's own, one of `stop_token_ids`, or one that a stop
    sequence names."""
    logprobs: list[TokenLogprob] | None = None
    """How likely each token of `generated` was; `None` unless it was asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """How likely each token of the prompt was; `None` for the first. They are fewer where it was cancelled before the
    prompt was read. `None` unless it was asked for."""
    cache_delta: CacheDelta
    """Tokens read from the cache and given to it."""
    kept: tuple[KeptPrefix, ...] = ()
    """What was to be kept, and what of it is new."""
    stats: Stats
    """Where the time went."""
    parsed: Any = None
    """With `json_schema` the value of the reply, of the type that was given; with `choice` the choice. `None` without
    them, where the reply was cut short (`finish_reason` is not `"stop"`), and where `parse_error` says why."""
    parse_error: str | None = None
    """Why a reply that ended by itself has no value: what the type's own checks say, which a grammar does not know of,
    or a stop sequence."""
    thinking: str | None = None
    """What the model thought before it answered, without markers; it is not part of `reply`. `None` where it did
    not."""
    thinking_signature: str = ""
    """HMAC-SHA256 of `thinking` under the model's `thinking_signing_key`, in hex; empty without a key."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The tools that it calls, in order; their text is not part of `reply`."""
    alternatives: tuple[Completion, ...] = ()
    """With `n` above 1: all the replies, this one first; each is as if it had been asked for alone."""

    @property
    def message(self) -> dict[str, Any]:
        """The reply as a message in OpenAI's form, to append to the conversation.

        `content`; `reasoning_content` where the model has thought; `tool_calls` with their ids where it calls tools,
        malformed ones too, so that each result has a call that it answers. Arguments are JSON texts.
        """
        message: dict[str, Any] = {"role": "assistant", "content": self.reply}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.tool_calls:
            message["tool_calls"] = [_as_message(call) for call in self.tool_calls]
        return message


def _as_message(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
