"""The cache without a model: bytes in, bytes out, for KV state that comes from somewhere else.

python cache_only.py /tmp/some_folder

The state here is made up: 16 bytes for each token. What counts is the shape of it: a row for each span of tokens, each
after the one before, found again by the tokens alone, also by another process.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys

import erllama_py as erllama

# Whose state it is: a hash of the model, and one of everything else that its bytes depend on.
IDENTITY = erllama.Identity(
    fingerprint=hashlib.sha256(b"my model").digest(),
    quant_bits=16,
    ctx_params_hash=hashlib.sha256(b"my settings").digest(),
)
SPAN = 64


def state_of(tokens: list[int], start: int) -> bytes:
    """What a model would have computed for the tokens from `start` on."""
    return b"".join(hashlib.md5(repr(tokens[: end + 1]).encode()).digest() for end in range(start, len(tokens)))


async def save(cache: erllama.Cache, tokens: list[int]) -> None:
    """Save the state of `tokens`, span by span, after what is there already."""
    found = await cache.find(IDENTITY, tokens)
    for start in range(found.tokens, len(tokens), SPAN):
        end = min(start + SPAN, len(tokens))
        await cache.put(IDENTITY, tokens[:end], start, state_of(tokens[:end], start), tier="disk")
    await cache.flush()


async def load(cache: erllama.Cache, tokens: list[int]) -> tuple[int, bytes]:
    """The state of the longest saved prefix of `tokens`, and how long that is."""
    found = await cache.find(IDENTITY, tokens)
    rows = [await cache.read(key, tier) for key, tier in found.rows]
    return found.tokens, b"".join(bytes(row.payload) for row in rows)


async def main(folder: str) -> None:
    story = [number * number % 1000 for number in range(300)]
    other = story[:200] + [7] * 100
    async with erllama.Runtime(tiers={"disk": erllama.DiskTier(folder)}) as runtime:
        for _ in range(1000):  # what is there already is being looked at
            if all(tier.opened == 1.0 for tier in await runtime.cache.tiers()):
                break
            await asyncio.sleep(0.01)
        for tokens in (story, other):
            await save(runtime.cache, tokens)
            known, state = await load(runtime.cache, tokens)
            assert state == state_of(tokens[:known], 0)
            print(f"{known} of {len(tokens)} tokens are saved")
        counters = await runtime.cache.counters()
        print(f"{counters.get('saves.cold', 0):.0f} rows written, {len(await runtime.cache.rows())} rows in total")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python cache_only.py FOLDER")
    asyncio.run(main(sys.argv[1]))
