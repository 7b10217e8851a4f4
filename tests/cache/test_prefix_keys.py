"""The keys of prefixes: the documented formula at every length, and whose rows never meet."""

from __future__ import annotations

import hashlib
import struct

import msgspec
import pytest
from helpers.rows import meta, stored
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.index import Index
from erllama_py.cache.keys import Identity, fold_adapters, fold_salt, pack_tokens, prefix_keys
from erllama_py.cache.walk import walk

IDENTITY = Identity(b"f" * 32, 4, b"c" * 32)

token_lists = st.lists(st.integers(0, (1 << 32) - 1), max_size=60)
digests = st.binary(min_size=32, max_size=32)
identities = st.builds(Identity, digests, st.integers(1, 64), digests)
scales = st.floats(-1e6, 1e6, width=32)


def formula(identity: Identity, tokens: list[int]) -> bytes:
    """The key as the documents describe it, computed by hand."""
    head = identity.fingerprint + bytes([identity.quant_bits]) + identity.ctx_params_hash
    return hashlib.sha256(head + struct.pack(f"<{len(tokens)}I", *tokens)).digest()


def key(tokens: list[int], identity: Identity = IDENTITY) -> bytes:
    return prefix_keys(identity, pack_tokens(tokens), (len(tokens),))[0]


@given(token_lists)
def test_tokens_are_packed_as_four_bytes_each_lowest_first(tokens: list[int]) -> None:
    """On any machine."""
    assert pack_tokens(tokens) == struct.pack(f"<{len(tokens)}I", *tokens)


@pytest.mark.parametrize("token", [-1, 1 << 32])
def test_what_does_not_fit_is_not_cut_to_fit(token: int) -> None:
    """Two prompts never become one by a lost bit."""
    with pytest.raises(OverflowError):
        pack_tokens([1, token])


def test_a_key_is_this_one() -> None:
    """Rows on disk are found again by it, so it may not change unnoticed."""
    expected = hashlib.sha256(b"f" * 32 + b"\x04" + b"c" * 32 + b"\x01\0\0\0\x00\x02\0\0").digest()
    assert key([1, 512]) == expected


@given(identities, token_lists, st.data())
def test_one_pass_gives_what_hashing_each_prefix_would(
    identity: Identity, tokens: list[int], data: st.DataObject
) -> None:
    """At any ascending ends, some of them twice: the formula over the prefix, from its start."""
    ends = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=10)))
    keys = prefix_keys(identity, pack_tokens(tokens), ends)
    assert keys == [formula(identity, tokens[:end]) for end in ends]
    assert keys == [key(tokens[:end], identity) for end in ends]


@given(identities)
def test_the_root_is_the_key_over_no_tokens(identity: Identity) -> None:
    """Every row from position 0 names it as its parent."""
    assert identity.root == formula(identity, []) == key([], identity)


def test_a_hasher_can_be_copied_at_each_boundary() -> None:
    """A copy does not notice what the original is fed afterwards."""
    hasher = IDENTITY.hasher()
    hasher.update(pack_tokens([1, 2]))
    copied = hasher.copy()
    hasher.update(pack_tokens([3]))
    assert (copied.digest(), hasher.digest()) == (key([1, 2]), key([1, 2, 3]))


@given(token_lists, token_lists)
def test_prefixes_have_one_key_when_they_are_equal(one: list[int], other: list[int]) -> None:
    """Token for token."""
    assert (key(one) == key(other)) == (one == other)


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": b"g" * 32}, {"quant_bits": 5}, {"ctx_params_hash": b"d" * 32}],
    ids=lambda one: next(iter(one)),
)
def test_each_part_of_an_identity_counts(other: dict[str, object]) -> None:
    """Rows of two never meet, however equal their tokens."""
    assert key([1, 2], msgspec.structs.replace(IDENTITY, **other)) != key([1, 2])


# --- adapters and tenants --------------------------------------------------------------------------------------

adapters = st.lists(st.tuples(digests, scales), max_size=4)


@given(digests)
def test_a_model_without_adapters_keeps_its_fingerprint(fingerprint: bytes) -> None:
    """Rows that are saved while no adapter can be loaded stay its own."""
    assert fold_adapters(fingerprint, []) == fingerprint


@given(digests, adapters, st.data())
def test_the_order_of_adapters_makes_no_difference(
    fingerprint: bytes, loaded: list[tuple[bytes, float]], data: st.DataObject
) -> None:
    """Their sum is the same."""
    shuffled = data.draw(st.permutations(loaded))
    assert fold_adapters(fingerprint, shuffled) == fold_adapters(fingerprint, loaded)


def test_adapters_are_folded_in_as_documented() -> None:
    """Computed by hand: sorted by their hashes, the scale in units of 2^-32 with its sign."""
    folded = fold_adapters(b"f" * 32, [(b"b" * 32, -0.5), (b"a" * 32, 1.0)])
    by_hand = b"f" * 32 + b"a" * 32 + struct.pack("<q", 1 << 32) + b"b" * 32 + struct.pack("<q", -(1 << 31))
    assert folded == hashlib.sha256(by_hand).digest()


@given(digests, digests, scales, scales)
def test_the_scale_of_an_adapter_counts(fingerprint: bytes, adapter: bytes, one: float, other: float) -> None:
    """To the precision that is hashed."""
    equal = fold_adapters(fingerprint, [(adapter, one)]) == fold_adapters(fingerprint, [(adapter, other)])
    assert equal == (round(one * (1 << 32)) == round(other * (1 << 32)))


@given(digests, adapters, adapters)
def test_two_sets_of_adapters_never_meet(
    fingerprint: bytes, one: list[tuple[bytes, float]], other: list[tuple[bytes, float]]
) -> None:
    """One that is loaded twice is not one that is loaded once."""

    def counted(loaded: list[tuple[bytes, float]]) -> list[tuple[bytes, int]]:
        return sorted((digest, round(scale * (1 << 32))) for digest, scale in loaded)

    equal = fold_adapters(fingerprint, one) == fold_adapters(fingerprint, other)
    assert equal == (counted(one) == counted(other))


@pytest.mark.parametrize("others", [[], [(b"b" * 32, 1.0)], [(b"a" * 32, 0.5)], [(b"a" * 32, 1.0), (b"b" * 32, 1.0)]])
def test_rows_of_other_adapters_or_scales_are_not_found(others: list[tuple[bytes, float]]) -> None:
    """The same model and tokens, saved with one adapter: only with that one they are there, cut back or whole."""
    tokens = list(range(100))
    mine, theirs = (
        msgspec.structs.replace(IDENTITY, fingerprint=fold_adapters(IDENTITY.fingerprint, loaded))
        for loaded in ([(b"a" * 32, 1.0)], others)
    )
    index = Index()
    index.add_tier("ram", "ram", 1 << 30)
    index.add("ram", stored(meta(tokens, 0, 50, identity=mine)))
    index.add("ram", stored(meta(tokens, 50, 100, identity=mine)))
    for cuttable in (False, True):
        assert walk(index, mine, pack_tokens(tokens), cuttable=cuttable).length == 100
        assert walk(index, theirs, pack_tokens(tokens), cuttable=cuttable).length == 0


@given(digests, st.none() | st.text(), st.none() | st.text())
def test_tenants_are_separate(fingerprint: bytes, one: str | None, other: str | None) -> None:
    """Rows saved under one salt are not found under another, nor under none; an empty salt is a salt."""
    assert (fold_salt(fingerprint, one) == fold_salt(fingerprint, other)) == (one == other)
    assert fold_salt(fingerprint, None) == fingerprint


@given(digests, st.text(), digests)
def test_a_tenant_of_one_model_is_none_of_another(fingerprint: bytes, salt: str, other: bytes) -> None:
    """What is folded in is as long as a fingerprint, and depends on it."""
    folded = fold_salt(fingerprint, salt)
    assert len(folded) == 32
    assert (folded == fold_salt(other, salt)) == (fingerprint == other)


def test_a_salt_is_folded_in_as_documented() -> None:
    """Computed by hand."""
    assert fold_salt(b"f" * 32, "ä") == hashlib.sha256(b"erllama cache_salt v1\0" + b"f" * 32 + b"\xc3\xa4").digest()
