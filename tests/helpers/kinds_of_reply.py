"""Replies of all kinds, short ones: each way to draw, each kind of structure, and the job of one of them."""

from __future__ import annotations

from typing import Any

from erllama_py.chat.segments import Markers
from erllama_py.engine.jobs import Generate
from erllama_py.options.sampling import Sampling
from helpers.structures import lark, regex, schema

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "greedy with penalties": {"temperature": 0.0, "repetition_penalty": 1.4, "penalty_last_n": 8},
    "usual": {},
    "hot": {"temperature": 1.5, "top_k": 0, "min_p": 0.0},
    "dry": {"dry_multiplier": 1.5, "dry_allowed_length": 1},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.01, "min_p": 0.0},
    "nucleus": {"top_k": 0, "min_p": 0.0, "top_p": 0.8},
    "mirostat": {"mirostat": 2},
    "mirostat 1": {"mirostat": 1},
    "adaptive-p": {"adaptive_p": 0.3},
    "no end at first": {"min_tokens": 12, "temperature": 1.5},
    "biased": {"logit_bias": {116: 2.0, 122: float("-inf")}},
}
STRUCTURES: dict[str, str | None] = {
    "none": None,
    "a schema": schema({"type": "object", "properties": {"name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["a long enough one", "another one"]}}, "required": ["name", "kind"],
        "additionalProperties": False}),
    "letters": regex("[a-z]{3,9}"),
    "forced": lark('start: "the whole of it is forced, and it is longer than what is forced at once: " /[a-z]+/ "."'),
}  # fmt: skip
CLOSING = "that is enough of it</think>"
THINKING: dict[str, Markers | None] = {
    "none": None,
    "a budget": Markers(thinking=("<think>", "</think>"), begins="thinking", closing=(*CLOSING.encode(),), budget=3),
    "no thinking": Markers(thinking=("<think>", "</think>"), begins="thinking", closing=(*CLOSING.encode(),), budget=0),
}


def job(sampling: Sampling, **fields: Any) -> Generate:
    """The one request of a `helpers.lives.Life`."""
    values: dict[str, Any] = {"tokens": PROMPT, "max_new_tokens": 40, "stream": True}
    return Generate(request_id=1, seq_id=0, keep=0, limit=1 << 30, sampling=sampling, **(values | fields))
