"""What a reply took, as Anthropic's usage objects tell it. The numbers are those of the engine."""

from __future__ import annotations

from typing import Any

import erllama_py as erllama

HOUR = 3600


def usage(completion: erllama.Completion) -> dict[str, Any]:
    """Tokens of one request. The three counts of the input add up to its prompt, as clients add them.

    `cache_read_input_tokens` were read from cells or rows, all others were computed: of these
    `cache_creation_input_tokens` were saved, those apart that are kept for an hour, and `input_tokens` were not, of
    which there is always one.
    """
    # A 0 counts as missing for Claude Code, which then goes by the start of the stream: one token is always told.
    read = min(completion.cache_delta.read, max(completion.prompt_tokens - 1, 0))
    computed = completion.prompt_tokens - read
    saved = min(completion.cache_delta.created, max(computed - 1, 0))  # what is saved beyond the prompt is of the reply
    long = min(saved, max((one.created for one in completion.kept if one.seconds >= HOUR), default=0))
    return _usage(computed - saved, read, (saved - long, long), len(completion.generated))


def first_usage(prompt_tokens: int) -> dict[str, Any]:
    """Of a stream that has begun: what of the prompt was read from the cache, and saved, is known at its end.

    Clients take the end's counts in place of these, but for `cache_creation`, which the end does not have for them.
    """
    return _usage(prompt_tokens, 0, (0, 0), 0) | {"cache_creation": None}


def _usage(computed: int, read: int, saved: tuple[int, int], generated: int) -> dict[str, Any]:
    return {
        "input_tokens": computed, "cache_creation_input_tokens": sum(saved), "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": saved[0], "ephemeral_1h_input_tokens": saved[1]},
        "output_tokens": generated, "output_tokens_details": None, "server_tool_use": None, "inference_geo": None,
        "service_tier": "standard",
    }  # fmt: skip
