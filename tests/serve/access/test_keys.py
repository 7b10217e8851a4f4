"""API keys: how they are made, kept, found and read from a request."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from erllama_py.serve.access import AccessOpts, KeyOpts, hash_key, make_key
from erllama_py.serve.access.keys import MOST, check_keys, find_key, presented_keys, salt_of

KEYS = {name: make_key() for name in ("alice", "bob", "carol")}
ENTRIES = tuple(KeyOpts(name=name, hash=digest) for name, (_, digest) in KEYS.items())


def test_a_key_is_random_and_its_hash_is_kept() -> None:
    """256 bits, in characters that go into headers and files as they are."""
    key, digest = make_key()
    assert key.startswith("erl_")
    assert len(key) == 4 + 43
    assert key.isascii()
    assert digest == hash_key(key) == "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    assert make_key()[0] != key


@pytest.mark.parametrize("name", KEYS)
def test_each_key_is_found(name: str) -> None:
    """And nothing else is."""
    found = find_key(KEYS[name][0], ENTRIES)
    assert found is not None
    assert found.name == name
    assert find_key(KEYS[name][1], ENTRIES) is None  # its hash is no key
    assert find_key(KEYS[name][0][:-1], ENTRIES) is None


@pytest.mark.parametrize("presented", ["", "x" * (MOST + 1), "é" * 10, "\udcff"[:0], "erl_"])
def test_what_is_no_key_is_none(presented: str) -> None:
    """Whatever a client sends."""
    assert find_key(presented, ENTRIES) is None


def test_all_entries_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In constant time each, so that the time tells nothing of which one fits."""
    compared = list[bytes]()

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for presented in (KEYS["alice"][0], KEYS["carol"][0], "wrong"):
        compared.clear()
        find_key(presented, ENTRIES)
        assert compared == [entry.hash.encode() for entry in ENTRIES]


@given(st.text(max_size=600))
def test_any_text_may_be_presented(text: str) -> None:
    """It is found to be none."""
    assert find_key(text.encode("utf-8", "replace").decode(), ENTRIES) is None


@pytest.mark.parametrize(
    ("headers", "presented"),
    [
        ({"Authorization": "Bearer k"}, ["k"]),
        ({"authorization": "bearer  k "}, ["k"]),
        ({"x-api-key": "k"}, ["k"]),
        ({"authorization": "Bearer a", "x-api-key": "b"}, ["a", "b"]),
        ({"authorization": "Basic k"}, []),
        ({"authorization": "k"}, []),
        ({"authorization": "Bearer "}, []),
        ({}, []),
    ],
)
def test_keys_are_read_from_two_headers(headers: dict[str, str], presented: list[str]) -> None:
    """OpenAI's and Anthropic's."""
    assert list(presented_keys(Headers(headers))) == presented


def test_salts_are_the_servers_own() -> None:
    """Apart for each name, the same after a restart, and after a new key where the server has a secret."""
    alice, bob, _ = ENTRIES
    again = KeyOpts(name="alice", hash=make_key()[1])
    assert len({salt_of(entry, secret) for entry in (alice, bob) for secret in (None, "a", "b")}) == 6
    assert salt_of(alice, "s") == salt_of(again, "s")
    assert salt_of(alice, None) != salt_of(again, None)
    assert salt_of(msgspec.structs.replace(alice, salt="own"), "s") == "own"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([], None),
        ([{"name": "a"}, {"name": "b"}], None),
        ([{"name": "a", "hash": "0"}, {"name": "b", "hash": "0"}], ("keys[1].hash", "it is that of keys[0]")),
        ([{"name": "a", "tokens_per_day": 1}, {"name": "a"}],
         ("keys[1].tokens_per_day", "keys of one name, here 'a', have one budget")),
    ],
)  # fmt: skip
def test_keys_that_cannot_stand_side_by_side(keys: list[dict[str, Any]], problem: Any) -> None:
    """Each with its place."""
    entries = [
        KeyOpts(**{**key, "hash": hash_key(key.get("hash", f"key {index}"))}) for index, key in enumerate(keys)
    ]  # fmt: skip
    assert check_keys(entries) == problem


@pytest.mark.parametrize("digest", ["", "abc", "sha256:" + "g" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 64])
def test_a_hash_that_is_none_is_refused(digest: str) -> None:
    """So that a key in place of its hash is no key that everybody may read in the file."""
    with pytest.raises(msgspec.ValidationError, match="hash"):
        msgspec.convert({"keys": [{"name": "a", "hash": digest}]}, AccessOpts)
