"""Hostile texts through the vocabularies of real models: `python -m helpers.text_attack COUNT SEED FILE…`.

Of each text the tokens that are got, whether cut or not, are held against those of one call of llama.cpp's; their bytes
against the text. It prints a line for each file.
"""

from __future__ import annotations

import ctypes
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from erllama_py.chat.special_texts import SpecialTexts
from erllama_py.engine.llama import cuts, vocabulary
from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.vocabulary import LlamaVocabulary
from erllama_py.errors import InvalidText
from erllama_py.stacks import call_on_stack

STACK = 256 << 20
RUNS = (
    "a", "A", "z", "7", "!", "\n", "\t", "\0", "\x7f", "é", "ß", "Ж", "字", "\u0301", "\u200d", "\u202e", "\u05d0",
    "\u0627", "\ufeff", "\ufffd", "\u2581", "\ue000", "\U0010ffff", " ", "👩\u200d👩\u200d👧",
    " \n", "👍🏽", "🇩🇪", "e\u0301\u0323", "\r\n", "\u3000", "\u00a0", "\u0378", "<", "<|", "|>",
    "''", "'s", "١٢", "ﷺ", "각", "<|im_end|>", "<s>", "</s>", "<0x41>",
    "[UNK]", "[CLS]", "##a", "<unk>", "\\x41", "\x02",
)  # fmt: skip
WORDS = (
    "the ",
    "Hello",
    " world",
    "don't",
    "3.14159",
    "日本語",
    "שלום ",
    "مرحبا ",
    "naïve",
    "x=[];\n",
    "\n\n",
    "  ",
    "http://a.b/c?d=e&f",
)


def hostile_text(chance: random.Random, special: list[str]) -> str:
    """Pieces of every kind, some of them long runs."""
    parts = list[str]()
    for _ in range(chance.randint(1, 12)):
        kind = chance.random()
        if kind < 0.25:
            parts.append(chance.choice(RUNS) * int(chance.paretovariate(0.6)))
        elif kind < 0.5 and special:
            one = chance.choice(special)
            cut = chance.choice([one, one, one[:-1], one[1:], one + " ", " " + one, one * 3, one[: len(one) // 2]])
            parts.append(cut)
        elif kind < 0.8:
            parts.append("".join(chance.choice(WORDS) for _ in range(chance.randint(1, 30))))
        else:
            parts.append("".join(map(chr, (any_code(chance) for _ in range(chance.randint(1, 40))))))
    return "".join(parts)[:4000]


def any_code(chance: random.Random) -> int:
    code = chance.choice([chance.randrange(0x80), chance.randrange(0x3000), chance.randrange(0x110000)])
    return code if not 0xD800 <= code < 0xE000 else 0xFFFD


@contextmanager
def opened(path: Path) -> Iterator[LlamaVocabulary]:
    """The vocabulary of a file."""
    lib = library()
    parameters = lib.c.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.c.llama_model_load_from_file(str(path).encode(), parameters)
    words = LlamaVocabulary(path.name)
    words.open(lib, model)
    try:
        yield words
    finally:
        words.close()
        lib.c.llama_model_free(model)


def by_llama(words: LlamaVocabulary, text: str, special: bool) -> list[int]:
    """The tokens of one call, on a stack for any match."""

    def call() -> list[int]:
        data = text.encode()
        with words._use() as handle:
            buffer: Any = (ctypes.c_int32 * (len(data) * 4 + 16))()
            count = library().c.llama_tokenize(handle, data, len(data), buffer, len(buffer), False, special)
        assert count >= 0
        return list(buffer[:count])

    return call_on_stack(STACK, call)


def attack(words: LlamaVocabulary, count: int, seed: int) -> dict[str, Any]:
    """What came of `count` texts."""
    chance = random.Random(seed)
    named = special_names(words.special_texts(), chance)
    refused = lossy = 0
    slowest = 0.0
    for number in range(count):
        text = hostile_text(chance, named)
        if number % 97 == 0:
            text *= 40  # so long that it is cut without being asked to
        special, begun = bool(number % 2), time.perf_counter()
        try:
            tokens = cut_everywhere(words, text, special, chance.choice([1, 2, 5, 50]) if number % 3 else None)
        except InvalidText:
            refused += 1
            continue
        slowest = max(slowest, time.perf_counter() - begun)
        assert words.least_tokens(text) <= len(tokens), (number, special, text)
        assert tokens == by_llama(words, text, special), (number, special, text)
        lossy += b"".join(words.token_bytes(token, special=True) for token in tokens) != text.encode()
    return {"texts": count, "refused": refused, "lossy": lossy, "slowest": round(slowest, 3)}


def cut_everywhere(words: LlamaVocabulary, text: str, special: bool, step: int | None) -> list[int]:
    """The tokens of a text that is cut as often as it can be, into pieces of `step` characters or more; None: as it
    would be."""
    with pytest.MonkeyPatch.context() as patch:
        if step is not None:
            patch.setattr(vocabulary, "LONG", 0)
            patch.setattr(cuts, "LONG", 0)
            patch.setattr(cuts, "STEP", step)
        return words.tokenize(text, add_special=False, parse_special=special)


def special_names(texts: SpecialTexts, chance: random.Random) -> list[str]:
    named = [one for one in (*texts.control, *texts.user_defined) if one]
    return chance.sample(named, min(len(named), 60))


def main(count: str, seed: str, *paths: str) -> None:
    """The command line."""
    for path in paths:
        with opened(Path(path)) as words:
            try:
                print(Path(path).name, attack(words, int(count), int(seed)), flush=True)
            except AssertionError as error:
                print(Path(path).name, "DIFFERS", repr(error)[:1500], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
