"""What a reply took, as Anthropic's usage objects tell it. The numbers are those of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import erllama_py as erllama
from erllama_py.serve.anthropic.conversation import Mark

HOUR = 3600


def usage(completion: erllama.Completion, marks: Sequence[Mark] = ()) -> dict[str, Any]:
    """Tokens of one request. The three counts of the input add up to its prompt, as clients add them.

    `cache_read_input_tokens` were read from cells or rows, all others were computed: of these
    `cache_creation_input_tokens` were saved, and `input_tokens` were not.
    """
    read = completion.cache_delta.read
    computed = completion.prompt_tokens - read
    saved = min(completion.cache_delta.created, computed)  # what is saved beyond the prompt is of the reply
    long = saved if any(mark.seconds >= HOUR for mark in marks) else 0
    return {
        "input_tokens": computed - saved,
        "cache_creation_input_tokens": saved,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": saved - long, "ephemeral_1h_input_tokens": long},
        "output_tokens": len(completion.generated),
        "service_tier": "standard",
    }


def first_usage(prompt_tokens: int) -> dict[str, Any]:
    """Of a stream that has begun: what of the prompt was read from the cache is known at its end."""
    return {
        "input_tokens": prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 0, "service_tier": "standard",
    }  # fmt: skip
