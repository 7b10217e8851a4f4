"""Bytes changed at random, as a failing device or a hostile hand would."""

from __future__ import annotations

import os
import random
import struct

WORDS = [0, 1, 2, 3, 31, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


def rounds(few: int) -> int:
    """How many mutations: `few`, or what `ERLLAMA_MUTATIONS` says. 100,000 take some minutes."""
    return int(os.environ.get("ERLLAMA_MUTATIONS", few))


def mutated(data: bytes, dice: random.Random, *, early: int) -> bytes:
    """Words, bits and stretches of it changed, one time in four within the first `early` bytes; or its length."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(min(early, len(changed)) if dice.random() < 0.75 else len(changed)) if changed else 0
        match dice.randrange(8):
            case 0 | 1 | 2:
                changed[place : place + 4] = struct.pack("<I", dice.choice([*WORDS, dice.getrandbits(32)]))
            case 3 | 4:
                changed[place : place + 1] = bytes([dice.getrandbits(8)])
            case 5:
                del changed[place : place + dice.choice([1, 4, 12, 64, 1 << 20])]
            case 6:
                changed[place:place] = dice.randbytes(dice.choice([1, 4, 12, 64]))
            case _:
                other = dice.randrange(len(changed) + 1)
                changed[place : place + 64] = changed[other : other + 64]
    return bytes(changed)
