"""Tiny models whose headers are mutated at random, loaded one after another: `python -m helpers.mutated_gguf FROM TO`.

The process that loads them is the one that must not be lost. It prints a line for each: its number, and what comes of
it.
"""

from __future__ import annotations

import asyncio
import random
import struct
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from gguf import GGUFReader, GGUFValueType

import erllama_py as erllama
from helpers.tiny_gguf import KINDS, Kind, tiny_gguf

GUARD_SECONDS = 60
WORDS = [0, 1, 2, 3, 7, 255, 513, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
NUMBERS = [0.0, -1.0, 1e30, float("nan"), float("inf"), float("-inf")]
CONTEXT: erllama.ContextOptsDict = {"n_ctx": 256, "n_batch": 64, "n_ubatch": 32, "n_threads": 1, "n_seq_max": 2}


def scalars(path: Path) -> list[tuple[int, bool]]:
    """Where in a file the values of four bytes are, and which of them are no whole numbers."""
    found = []
    for field in GGUFReader(path).fields.values():
        if field.types and field.types[0] in (GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32):
            key = len(field.name.encode())
            found.append((field.offset + 8 + key + 4, field.types[0] == GGUFValueType.FLOAT32))
    return [(at, real) for at, real in found if at > 100]  # those before the first key are not values


def mutated(number: int, folder: Path) -> bytes:
    """The file of this number: the same each time."""
    chance = random.Random(number)
    kind: Kind = KINDS[number % len(KINDS)]
    path = tiny_gguf(kind, folder)
    data, places, end = bytearray(path.read_bytes()), scalars(path), GGUFReader(path).data_offset
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.6:
            at, real = chance.choice(places)
            data[at : at + 4] = (
                struct.pack("<f", chance.choice(NUMBERS)) if real else struct.pack("<I", chance.choice(WORDS))
            )
        else:
            at = chance.choice([chance.randrange(4, 700), chance.randrange(4, end)])
            data[at] = chance.randrange(256)
    return bytes(data)


async def outcome(path: Path, home: Path) -> str:
    """What comes of a file: `ok`, or the name of an error of the library's."""
    try:
        async with asyncio.timeout(GUARD_SECONDS), erllama.Runtime(home=home) as runtime:
            model = await runtime.load_model("m", {"model_path": path, "context_opts": CONTEXT})
            await model.complete("Hello world, this is a test. é " * 3, response_tokens=3)
            await model.embed(["a", "b" * 40])
    except erllama.ErllamaError as error:
        return type(error).__name__
    return "ok"


def main(first: int, last: int) -> Counter[str]:
    """Load the files of these numbers."""
    counts = Counter[str]()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(first, last):
            path = folder / "mutated.gguf"
            path.write_bytes(mutated(number, folder))
            print(number, end=" ", flush=True)
            said = asyncio.run(outcome(path, folder / "home"))
            counts[said] += 1
            print(said, flush=True)
    return counts


if __name__ == "__main__":
    print(main(int(sys.argv[1]), int(sys.argv[2])))
