"""Unigram tokenizers whose tables of characters are mutated at random: `python -m helpers.mutated_charsmap COUNT`.

Those that `charsmap_fault` finds sound write every character there is; the process must not end by that.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from erllama_py.engine.llama.charsmap import charsmap_fault
from helpers.crafted_vocabularies import ARRAY, MAP, T5, one_step
from helpers.spoilt_gguf import Spoilt, spoilt_gguf
from helpers.text_attack import by_llama, opened

EVERYTHING = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x30000, 7), *range(0x30000, 0x110000, 997))))


def mutated(number: int) -> bytes:
    """The table of this number: the same each time."""
    chance = random.Random(number)
    data = bytearray(one_step(chance.choice(b"abc\xc3\xe5\xf0"), b"xyz\0 \0\xc3\xa9\0", size=768))
    for _ in range(chance.randint(1, 12)):
        unit = chance.choice([0, 256 ^ ord("a"), chance.randrange(768)])
        base = chance.choice([0, 256, 512, 768, chance.randrange(1 << 20)])
        label = chance.choice([*b"abc\xc3\xa5", chance.randrange(256)])
        value = base << 10 | label | chance.choice([0, 1 << 8, 1 << 9, 1 << 31])
        struct.pack_into("<I", data, 4 + 4 * unit, value & 0xFFFFFFFF)
    return bytes(data)


def main(count: str) -> None:
    """The command line; prints how many were sound, and how many not."""
    sound = 0
    with TemporaryDirectory() as folder:
        for number in range(int(count)):
            table = mutated(number)
            if charsmap_fault(table) is not None:
                continue
            sound += 1
            path = spoilt_gguf(Spoilt("", values={**T5, MAP: (table, ARRAY)}), Path(folder) / "m.gguf")
            with opened(path) as words:
                for text in (EVERYTHING, *("".join(pair) for pair in zip("abcéå" * 20, EVERYTHING, strict=False))):
                    by_llama(words, text, False)
    print(sound, int(count) - sound)


if __name__ == "__main__":
    main(sys.argv[1])
