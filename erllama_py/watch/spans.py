"""What the span of a request says, and its phases: from what was asked, and what it came to. Pure.

Names are those of OpenTelemetry's conventions for generative AI, version 0.1.0; names of our own begin with `erllama.`.
No text of a prompt or a reply is among the values, nor what a caller wrote to stop one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from erllama_py.options.request import DEFAULT_RESPONSE_TOKENS, RequestOptions
from erllama_py.results import Completion, Embeddings, Ranking, Scores, ToolRunResult

Operation = Literal[
    "chat", "text_completion", "prefill", "embeddings", "rerank", "score", "invoke_agent", "execute_tool"
]
Value = str | bool | int | float | Sequence[str]
Attributes = dict[str, Value]

PROVIDER = "erllama"
FIRST_TOKEN = "erllama.first_token"
CANCELLED: Attributes = {"erllama.cancelled": True}
"""Of what its caller gave up before there was a result."""


class Phase(NamedTuple):
    """One phase of a request. Times are in seconds from the call on."""

    name: str
    start: float
    end: float
    attributes: Attributes


def of_operation(operation: Operation, model_id: str) -> Attributes:
    """What is known before anything is looked at, so that a sampler can decide by it."""
    return {
        "gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER, "gen_ai.request.model": model_id,
    }  # fmt: skip


def of_options(options: RequestOptions, *, streams: bool) -> Attributes:
    """What was asked for."""
    found: Attributes = {
        "gen_ai.output.type": "text" if options.json_schema is None else "json",
        "gen_ai.request.max_tokens": options.response_tokens or DEFAULT_RESPONSE_TOKENS,
        "gen_ai.request.temperature": options.temperature,
        "gen_ai.request.top_k": options.top_k,
        "gen_ai.request.top_p": options.top_p,
        "erllama.priority": options.priority,
    }
    given: dict[str, Value | None] = {
        "gen_ai.request.stream": streams or None,
        "gen_ai.request.choice.count": options.n if options.n != 1 else None,
        "gen_ai.request.seed": options.seed,
        "gen_ai.request.frequency_penalty": options.frequency_penalty or None,
        "gen_ai.request.presence_penalty": options.presence_penalty or None,
        "gen_ai.conversation.id": options.session_id,
        "erllama.deadline_seconds": options.deadline,
        "erllama.reproducible": options.reproducible or None,
    }
    return found | {name: value for name, value in given.items() if value is not None}


def of_completion(completion: Completion, model_id: str, *, streams: bool) -> Attributes:
    """What it came to; counts of all alternatives together."""
    replies, stats, delta = completion.alternatives or (completion,), completion.stats, completion.cache_delta
    found: Attributes = {
        "gen_ai.response.model": model_id,
        "gen_ai.response.finish_reasons": [_finish_reason(one) for one in replies],
        "gen_ai.usage.input_tokens": completion.prompt_tokens,
        "gen_ai.usage.output_tokens": sum(len(one.generated) for one in replies),
        "gen_ai.usage.cache_read.input_tokens": delta.read,
        # What is saved beyond what was computed of the prompt is of the reply.
        "gen_ai.usage.cache_write.input_tokens": max(0, min(delta.created, completion.prompt_tokens - delta.read)),
        "erllama.cache.hit_kind": completion.cache_hit_kind,
        "erllama.cache.saved_tokens": delta.created,
        "erllama.prefill_tokens": stats.prefill_tokens,
        "erllama.decodes": stats.decodes,
        "erllama.parks": stats.parks,
        "erllama.crashes": max(one.stats.crashes for one in replies),
    }
    if stats.tier is not None:
        found["erllama.cache.tier"] = stats.tier
    if stats.miss_reason is not None:
        found["erllama.cache.miss_reason"] = stats.miss_reason
    if streams and completion.generated:
        found["gen_ai.response.time_to_first_chunk"] = stats.first_token_seconds
    return found


def _finish_reason(completion: Completion) -> str:
    """The conventions have a word of their own for a reply that calls tools."""
    return "tool_call" if completion.finish_reason == "stop" and completion.tool_calls else completion.finish_reason


def phases(completion: Completion, prepared: float | None, ended: float) -> list[Phase]:
    """The phases in their order, each from the end of the one before it; those that took no time are left out.

    `prepared` is when the prompt was there, None where it never was; `ended` when the reply was. Both are in seconds
    from the call on, as what the engine measured is, and nothing lies behind `ended`.
    """
    stats, delta = completion.stats, completion.cache_delta
    lengths: list[tuple[str, float, Attributes]] = [
        ("erllama.find_prefix", stats.lookup_seconds, _found(completion)),
        ("erllama.restore", stats.restore_seconds, _restored(completion)),
        ("erllama.prefill", stats.prefill_seconds, {"erllama.prefill_tokens": stats.prefill_tokens}),
        ("erllama.decode", stats.decode_seconds, {"gen_ai.usage.output_tokens": len(completion.generated)}),
    ]
    queued = stats.queued_seconds
    ready = queued if prepared is None else min(prepared, queued)
    marks: list[tuple[str, float, Attributes]] = [
        ("erllama.prepare", ready, {"gen_ai.usage.input_tokens": completion.prompt_tokens}),
        ("erllama.queue", queued, {}),
    ]
    at = queued
    for name, seconds, attributes in lengths:
        at += seconds
        marks.append((name, at, attributes))
    if completion.finish_key is not None:
        marks.append(("erllama.save", max(at, ended), {"erllama.cache.saved_tokens": delta.created}))
    return _between(marks, ended)


def _between(marks: Sequence[tuple[str, float, Attributes]], ended: float) -> list[Phase]:
    found, start = list[Phase](), 0.0
    for name, mark, attributes in marks:
        end = min(max(mark, start), ended)
        if end > start:
            found.append(Phase(name, start, end, attributes))
        start = max(start, end)
    return found


def _found(completion: Completion) -> Attributes:
    found: Attributes = {"erllama.cache.hit_kind": completion.cache_hit_kind}
    if completion.stats.miss_reason is not None:
        found["erllama.cache.miss_reason"] = completion.stats.miss_reason
    return found


def _restored(completion: Completion) -> Attributes:
    if completion.stats.tier is None:
        return {}
    return {
        "erllama.cache.tier": completion.stats.tier,
        "erllama.cache.restored_tokens": completion.cache_delta.read,
        "erllama.cache.restored_bytes": completion.stats.restored_bytes,
    }


def of_embeddings(done: Embeddings) -> Attributes:
    """What `embed` came to."""
    width = len(done.vectors[0]) if len(done.vectors) else 0
    found: Attributes = {"gen_ai.usage.input_tokens": sum(done.token_counts), "erllama.inputs": len(done.token_counts)}
    return found | ({"gen_ai.embeddings.dimension.count": width} if width else {})


def of_ranking(done: Ranking) -> Attributes:
    """What `rerank` came to."""
    return {"erllama.documents": len(done.documents), "erllama.rerank.method": done.method}


def of_scores(done: Scores) -> Attributes:
    """What `score` and `choose` came to."""
    return {
        "gen_ai.usage.input_tokens": done.prompt_tokens + sum(len(one.token_ids) for one in done.scores),
        "gen_ai.usage.cache_read.input_tokens": done.cache_delta.read,
        "erllama.continuations": len(done.scores),
        "erllama.prefill_tokens": done.prefill_tokens,
    }


def of_tool(name: str | None) -> Attributes:
    """Of a call of a tool. It is the application's, so no model is named."""
    known: Attributes = {} if name is None else {"gen_ai.tool.name": name}
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.type": "function", **known}


def of_tool_run(done: ToolRunResult) -> Attributes:
    """What a run came to: the tokens of all of its replies."""
    replies = done.completions
    return {
        "gen_ai.usage.input_tokens": sum(one.prompt_tokens for one in replies),
        "gen_ai.usage.output_tokens": sum(len(one.generated) for one in replies),
        "gen_ai.usage.cache_read.input_tokens": sum(one.cache_delta.read for one in replies),
        "erllama.tool_run.rounds": len(replies),
        "erllama.tool_run.ended": done.ended,
    }
