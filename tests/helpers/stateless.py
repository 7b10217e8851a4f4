"""A client without state, and a scripted model that thinks and calls tools: what exact turns are there for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import erllama_py as erllama
from helpers.scripted import Reply, Script

CONTROLS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    'Answer with <tool_call>\n{"name": …, "arguments": …}\n</tool_call><|im_end|>\n{% endif %}'
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>\n{{ m.content }}\n</tool_response>"
    "{% else %}{% if m.reasoning_content and loop.index0 > ns.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n"
    "{% endif %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    "{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}\n</tool_call>{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
ASKED: dict[str, Any] = {"tools": TOOLS, "response_tokens": 300, "temperature": 0.0}


def thought(text: str, then: str) -> str:
    """A reply that thinks first."""
    return f"<think>\n{text}\n</think>\n\n{then}"


def call(city: str, days: int) -> str:
    """A call as the model writes it."""
    return f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}", "days": {days}}}}}\n</tool_call>'


# Six turns: calls, two at once, texts, thinking in all of them.
SIX: tuple[Reply, ...] = (
    thought("Which city?", call("Oslo", 1)),
    thought("Cold.", "It is cold in Oslo."),
    thought("Two now.", f"I look.\n{call('Rome', 2)}\n{call('Bern', 3)}"),
    thought("One more.", call("Bern", 4)),
    thought("Done.", "Rome is warm, Bern is not."),
    thought("Polite.", "You are welcome!"),
)


@asynccontextmanager
async def thinker(
    *replies: Reply, tiers: Any = None, template: str = TEMPLATE, **config: Any
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model, Script]]:  # fmt: skip
    """A runtime, a model `m` that says the replies, and its script."""
    script = Script(*replies, controls=CONTROLS, template=template)
    async with erllama.Runtime(backend_factory=script.backend, tiers=tiers or {}) as runtime:
        fields: Any = {"backend": "stub", "context_opts": {"n_ctx": 8192}, **config}
        yield runtime, await runtime.load_model("m", fields), script


def on_disk(root: Path) -> dict[str, Any]:
    """A runtime's tiers: one in a directory."""
    return {"d": {"kind": "disk", "root": root, "quota_bytes": 64 << 20}}


SAVING: dict[str, Any] = {"tier": "disk", "tier_srv": "d"}


def sent_back(done: erllama.Completion) -> dict[str, Any]:
    """A reply as such a client sends it: thinking dropped, arguments as JSON of its own spacing, white space lost."""
    message: dict[str, Any] = {"role": "assistant", "content": done.reply.strip() or None}
    if done.tool_calls:
        message["tool_calls"] = [
            {
                "type": "function", "id": one.id,
                "function": {
                    "name": one.name,
                    "arguments": json.dumps(dict(reversed(one.arguments.items())), separators=(" ,  ", ":")),
                },
            }
            for one in done.tool_calls
        ]  # fmt: skip
    return message


def results(done: erllama.Completion) -> list[dict[str, Any]]:
    """What its tools say."""
    return [{"role": "tool", "tool_call_id": one.id, "content": f"{one.arguments}"} for one in done.tool_calls]


def question(number: int) -> dict[str, Any]:
    """Something of the user's."""
    return {"role": "user", "content": f"question {number}?"}


def next_messages(done: erllama.Completion, number: int) -> list[dict[str, Any]]:
    """What comes after a reply: itself, and the results of its tools or another question."""
    return [sent_back(done), *(results(done) or [question(number)])]


def is_all_new(before: erllama.Completion, now: erllama.Completion) -> bool:
    """Whether a turn computed nothing that the one before had read or sampled, but for what was in no cell."""
    return now.stats.prefill_tokens == now.prompt_tokens - before.committed_tokens


def turns_of(rows: Sequence[erllama.RowInfo]) -> list[erllama.RowInfo]:
    """Those that hold no cells."""
    return [row for row in rows if row.reason == "turn"]
