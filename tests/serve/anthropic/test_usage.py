"""The counts of the input, which clients add up."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.anthropic.usage import usage

STATS: Any = dict.fromkeys(erllama.Stats.__struct_fields__, 0)
KEPT = st.lists(
    st.builds(
        erllama.KeptPrefix,
        tokens=st.integers(0, 9),
        created=st.integers(0, 9),
        seconds=st.sampled_from([300.0, 3600.0]),
    ),
    max_size=4,
)


def completion(**given: Any) -> erllama.Completion:
    """One token of a reply."""
    fields: dict[str, Any] = {
        "reply": "x", "generated": [1], "context_tokens": 1, "committed_tokens": 1, "finish_key": None,
        "cache_hit_kind": "cold", "finish_reason": "stop", "stop_sequence": None, "stats": erllama.Stats(**STATS),
    }  # fmt: skip
    return erllama.Completion(**fields, **given)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 30), KEPT)
def test_they_are_the_prompt(prompt: int, read: int, saved: int, kept: list[erllama.KeptPrefix]) -> None:
    """However much was read and saved; one token is always told as neither."""
    delta = erllama.CacheDelta(read=min(read, prompt), created=saved)
    told = usage(completion(prompt_tokens=prompt, cache_delta=delta, kept=tuple(kept)))
    written = told["cache_creation_input_tokens"]
    assert told["input_tokens"] + written + told["cache_read_input_tokens"] == prompt
    assert told["input_tokens"] >= 1
    assert written <= saved
    assert sum(told["cache_creation"].values()) == written
