"""A look-up in words, and the row that comes of a copied range."""

from __future__ import annotations

import msgspec
from helpers.requests import NOTHING, PROMPT, captured, hit_of
from helpers.rows import IDENTITY, meta

from erllama_py.cache.keys import pack_tokens
from erllama_py.handle.explanation import cached_prefixes, explain
from erllama_py.model.request import row_meta
from erllama_py.results import CachedPrefix, Explanation
from erllama_py.scheduler.messages import SaveRow

HIT = hit_of(PROMPT, 20, 40)


def test_a_hit_is_explained() -> None:
    """How much of the prompt, in how many rows of which tiers, and where and why it ends."""
    ram = msgspec.structs.replace(HIT.chain[0], tier="ram", nbytes=30)
    mixed = msgspec.structs.replace(HIT, chain=(ram, *HIT.chain[1:], ram))
    assert explain(mixed, PROMPT, 16) == Explanation(
        prompt_tokens=60, hit_tokens=40, tiers=("ram", "disk"), rows=3, nbytes=1060,
        miss_reason="what is saved ends at token 40", position=40,
    )  # fmt: skip


def test_a_whole_hit_has_no_position() -> None:
    """There is nothing to explain."""
    explained = explain(hit_of(PROMPT, 60), PROMPT, 16)
    assert (explained.hit_tokens, explained.miss_reason, explained.position) == (60, None, None)


def test_nothing_is_explained_too() -> None:
    """Whether the cache has nothing, saves nothing, or cannot be asked."""
    explained = explain(NOTHING, PROMPT, 16)
    assert (explained.hit_tokens, explained.rows, explained.miss_reason) == (0, 0, "nothing is saved for this model")
    assert explain(NOTHING, PROMPT, 61).miss_reason == "prompts below min_tokens (61) are not saved"
    away = explain(None, PROMPT, 16)
    assert (away.hit_tokens, away.miss_reason, away.position) == (0, "the cache is not running", None)


def test_each_row_ends_a_cached_prefix() -> None:
    """With the bytes up to there; a last row that matches in part counts for what matches."""
    assert cached_prefixes(HIT) == [CachedPrefix(20, "disk", 1000), CachedPrefix(40, "disk", 2000)]
    part = msgspec.structs.replace(HIT, length=33, reached=HIT.reached[:1])
    assert cached_prefixes(part) == [CachedPrefix(20, "disk", 1000), CachedPrefix(33, "disk", 2000)]
    shorter = hit_of(PROMPT, 20, 30).reached
    two_ways = msgspec.structs.replace(HIT, reached=(*shorter, HIT.reached[1]))
    assert [(one.tokens, one.nbytes) for one in cached_prefixes(two_ways)] == [(20, 1000), (30, 2000), (40, 2000)]
    assert cached_prefixes(NOTHING) == cached_prefixes(None) == []


def test_a_copied_range_becomes_the_row_of_its_span() -> None:
    """Keys at both ends, the tokens between, and what it took; tokens after its end make no difference."""
    copied = captured(1, 20, 40, payload=memoryview(bytes(1000)), compute_seconds=1.0)
    expected = msgspec.structs.replace(meta(PROMPT, 20, 40), created_at=7.0, logits_bytes=4)
    for tokens in (PROMPT, PROMPT[:40]):
        assert row_meta(SaveRow(IDENTITY, pack_tokens(tokens), copied, b"1234"), "b1", 7.0) == expected
