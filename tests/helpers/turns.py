"""Turns of sessions by their ids, on the stub backend: prompts that extend each other, and short greedy replies."""

from __future__ import annotations

from typing import Any

import erllama_py as erllama
from helpers.cache import stub_reply, text
from helpers.crowd import prompts
from helpers.watched import Watch

SHORT: dict[str, Any] = {"response_tokens": 8, "temperature": 0.0}
WIDE: dict[str, Any] = {"n_ctx": 4096}


def first_prompt(seed: int = 0) -> list[int]:
    """Forty tokens whose reply does not end before eight."""
    return list(prompts(seed + 1, 40, 8)[seed])


def next_prompt(before: list[int], done: erllama.Completion, seed: int = 0) -> list[int]:
    """The turn after `done`: twenty new tokens after it, whose reply does not end before eight."""
    held = [*before, *done.generated]
    for number in range(1000 * seed, 1000 * seed + 1000):
        prompt = [*held, *text(20, number).encode()]
        if len(stub_reply(prompt, 8)) == 8:
            return prompt
    raise AssertionError("no such prompt")


def holder(watch: Watch, session_id: str, model_id: str = "m") -> int | None:
    """The sequence that is held for a session."""
    slots = watch.states[model_id].slots
    return next((slot.seq_id for slot in slots if slot.session_id == session_id), None)
