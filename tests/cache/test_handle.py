"""The cache without a model: what an application hands over is checked at the door, and bad arguments affect no other
caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy
import pytest
from helpers.checkpoints import turns

import erllama_py as erllama
from erllama_py.cache.checks import MOST_BUILD_BYTES
from erllama_py.cache.keys import fold_adapters
from erllama_py.tiers.row_file import MAX_BUILD_BYTES

pytestmark = pytest.mark.anyio

I = erllama.Identity(b"f" * 32, 16, b"c" * 32)  # noqa: E741  # as short as the rest of the calls below
TOKENS = list(range(100))
TEXT: Any = "c" * 32

Call = Callable[[Any], Awaitable[object]]  # given the handle, and untyped, as code without type checks is

SLIPS: dict[str, tuple[Call, str]] = {
    "no identity": (lambda c: c.find("x", TOKENS), "an identity is an `Identity`, not 'x'"),
    "a short fingerprint": (lambda c: c.find(erllama.Identity(b"a", 16, b"c" * 32), TOKENS), "the fingerprint"),
    "a hash of text": (lambda c: c.find(erllama.Identity(b"a" * 32, 16, TEXT), TOKENS), "the ctx_params_hash"),
    "many bits": (lambda c: c.find(erllama.Identity(b"a" * 32, 300, b"c" * 32), TOKENS), "from 0 to 255, not 300"),
    "text for tokens": (lambda c: c.find(I, "some text"), "tokens are a list of ints, not 'some text'"),
    "no tokens": (lambda c: c.find(I, None), "tokens are a list of ints, not None"),
    "a token below 0": (lambda c: c.find(I, [1, -1]), "ints from 0 to 2"),
    "a token above 2**32": (lambda c: c.put(I, [1 << 32], 0, b"x"), "ints from 0 to 2"),
    "half a token": (lambda c: c.put(I, [1.5], 0, b"x"), "ints from 0 to 2"),
    "a key of another type": (lambda c: c.read(5, "ram"), "a key is 32 bytes or 64 hex digits, not 5"),
    "a short key": (lambda c: c.read(b"x", "ram"), "a key is 32 bytes or 64 hex digits"),
    "a key of other digits": (lambda c: c.read("g" * 64, "ram"), "a key is 32 bytes or 64 hex digits"),
    "a list of tiers to read from": (lambda c: c.read(b"k" * 32, ["ram"]), "a tier is given by its name"),
    "a list of tiers to put to": (lambda c: c.put(I, [7], 0, b"x", tier=["d"]), "a tier is given by its name"),
    "a start after the end": (lambda c: c.put(I, [7], 1, b"x"), "before its end at 1, not 1"),
    "a row of nothing": (lambda c: c.put(I, [], 0, b"x"), "before its end at 0, not 0"),
    "a start that is no int": (lambda c: c.put(I, TOKENS, 1.0, b"x"), "not 1.0"),
    "text for a payload": (lambda c: c.put(I, [7], 0, "x"), "a payload is bytes"),
    "an array in pieces": (lambda c: c.put(I, [7], 0, numpy.zeros((4, 4))[:, 1]), "a payload is bytes"),
    "text for logits": (lambda c: c.put(I, [7], 0, b"x", logits="abc"), "logits are bytes, not 'abc'"),
    "no number": (
        lambda c: c.put(I, [7], 0, b"x", prefill_seconds=float("nan")),
        "number of 0 or more, not nan",
    ),
    "no finite number": (lambda c: c.put(I, [7], 0, b"x", prefill_seconds=10**400), "not an integer of 1329 bits"),
    "time that runs back": (lambda c: c.put(I, [7], 0, b"x", prefill_seconds=-1), "finite number of 0 or more, not -1"),
    "text for seconds": (lambda c: c.put(I, [7], 0, b"x", prefill_seconds="1"), "finite number of 0 or more, not '1'"),
    "a long build": (lambda c: c.put(I, [7], 0, b"x", build="b" * 5000), "at most 4096 bytes, not 'bbb"),
    "a build that is no text": (lambda c: c.put(I, [7], 0, b"x", build="\ud800"), "a build is a text"),
    "another reason": (lambda c: c.put(I, [7], 0, b"x", reason="why not"), "one of cold, continued, finish, evict"),
    "a part of a byte": (lambda c: c.evict_bytes(1.5), "a number of bytes is an int of 0 or more, not 1.5"),
    "less than nothing": (lambda c: c.evict_bytes(-1), "a number of bytes is an int of 0 or more, not -1"),
    "no tiers": (lambda c: c.evict_bytes(1, None), "tiers are a list of names or kinds, not None"),
    "tiers that are not names": (lambda c: c.evict_bytes(1, [["ram"]]), "a tier is given by its name"),
}


@pytest.mark.parametrize("slip", SLIPS)
async def test_bad_arguments_raise_at_the_caller(slip: str) -> None:
    """With what was expected; what was there is there, and nothing was counted."""
    call, problem = SLIPS[slip]
    async with erllama.Runtime() as runtime:
        key = await runtime.cache.put(I, TOKENS, 0, b"x" * 1600)
        await runtime.cache.flush()
        before = await runtime.cache.counters()
        with pytest.raises(erllama.RequestError) as caught:
            await call(runtime.cache)
        assert problem in str(caught.value)
        assert len(str(caught.value)) < 200
        await runtime.cache.flush()
        assert await runtime.cache.counters() == before
        assert [row.key for row in await runtime.cache.rows()] == [key]
        assert "restart" not in str(runtime.tree())


async def test_a_key_may_be_written_in_hex_digits() -> None:
    """As it is printed everywhere."""
    async with erllama.Runtime() as runtime:
        key = await runtime.cache.put(I, TOKENS, 0, b"x" * 1600)
        await runtime.cache.flush()
        for one in (bytes.fromhex(key), key, key.upper()):
            assert bytes((await runtime.cache.read(one, "ram")).payload) == b"x" * 1600


async def test_a_row_that_never_was_is_not_a_row_that_was_lost() -> None:
    """Whoever asks for it hears that it is not there; no loss is counted."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.RowUnavailable):
            await runtime.cache.read(bytes(32), "ram")
        with pytest.raises(erllama.RowUnavailable):
            await runtime.cache.read(bytes(32), "no such tier")
        await runtime.cache.flush()
        assert not any(name.startswith("bad.") for name in await runtime.cache.counters())


async def test_rows_made_with_an_adapter_are_found_with_it_alone() -> None:
    """Not without it, nor with another one or at another scale."""
    adapter, other = b"a" * 32, b"b" * 32
    loads: list[list[tuple[bytes, float]]] = [[], [(adapter, 1.0)], [(adapter, 0.5)], [(other, 1.0)]]
    models = [erllama.Identity(fold_adapters(I.fingerprint, load), I.quant_bits, I.ctx_params_hash) for load in loads]
    async with erllama.Runtime() as runtime:
        for made in models:
            await runtime.cache.put(made, TOKENS, 0, b"cells")
            await runtime.cache.flush()
            found = [(await runtime.cache.find(model, TOKENS)).tokens for model in models]
            assert found == [100 * (model == made) for model in models]
            await runtime.cache.evict_bytes(1 << 30)


async def test_a_look_up_that_is_cancelled_holds_no_row() -> None:
    """At whatever moment, also when the answer is there and was not seen: what was found can be evicted."""
    async with erllama.Runtime() as runtime:
        await runtime.cache.put(I, TOKENS, 0, b"x" * 1600)
        await runtime.cache.flush()
        for moment in range(8):
            look_up = asyncio.create_task(runtime.cache.find(I, TOKENS))
            await turns(moment)
            look_up.cancel()
            await asyncio.wait((look_up,))
        assert await runtime.cache.evict_bytes(1) > 0
        assert await runtime.cache.rows() == []
        assert not any(name.startswith("misses.") for name in await runtime.cache.counters())


async def test_what_cannot_be_saved_is_dropped_and_counted() -> None:
    """After a row that is not there, into a tier that does not run, twice, or more than the quota."""
    async with erllama.Runtime(ram_quota_bytes=1 << 20) as runtime:
        cache = runtime.cache
        await cache.put(I, TOKENS, 50, b"x")
        await cache.put(I, TOKENS, 0, b"x", tier="no such tier")
        await cache.put(I, TOKENS, 0, bytes(2 << 20))
        for _ in range(2):
            await cache.put(I, TOKENS, 0, b"x")
        await cache.flush()
        counters = await cache.counters()
        assert len(await cache.rows()) == 1
    for name in ("dropped.no_parent", "dropped.no_tier", "dropped.too_large", "duplicate", "cold"):
        assert counters[f"saves.{name}"] == 1


async def test_whatever_lies_in_one_piece_is_a_payload() -> None:
    """Arrays of any type, and nothing at all."""
    async with erllama.Runtime() as runtime:
        payloads: tuple[Any, ...] = (b"", bytearray(b"xyz"), numpy.ones((4, 4)), memoryview(b"abc"))
        for number, payload in enumerate(payloads):
            key = await runtime.cache.put(I, [number], 0, payload)
            await runtime.cache.flush()
            assert (await runtime.cache.read(key, "ram")).payload == memoryview(payload).cast("B")


def test_a_build_fits_into_a_file() -> None:
    """What the door lets in, a row's header has room for."""
    assert MOST_BUILD_BYTES == MAX_BUILD_BYTES
