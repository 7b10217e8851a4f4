"""The names of rules by which llama.cpp splits texts into words, and texts that are hard to split.

`python -m helpers.pre_tokenizers FOLDER quick|all LENGTH NAME…` tokenizes them by each, and says how many it refused
and how many seconds the slowest took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from erllama_py.errors import InvalidText
from helpers.tiny_vocabulary import tiny_vocabulary

# One for each set of regular expressions that is matched by recursion.
DEEP = (
    "default", "minicpm5", "deepseek-llm", "deepseek-coder", "deepseek-v3", "spark2_5", "youtu", "falcon", "jais-2",
    "poro-chat", "viking", "tekken", "bloom", "gpt3-finnish", "exaone-moe", "chameleon", "gpt-4o",
    "granite-embed-multi-97m", "tiny_aya", "superbpe", "bailingmoe", "seed-coder", "hunyuan-dense", "hy_v4",
    "joyai-llm", "ufakzeka", "afmoe", "minimax-m2",
)  # fmt: skip
ALIKE = ("llama4", "kanana2", "talkie", "cohere2moe", "bailingmoe2", "llada-moe")
# A character of each category of Unicode, and some that are rules of their own somewhere.
CHARACTERS = (
    "AaéǅʰあЖ字가ก\u0301ः\u20dd7٣Ⅷ²_-()«»!，+$^´☃😀'/▁ \u00a0\u3000\u2028\u2029\t\n\r\0\x1b\x85\u200d\ue000\u0378"
)
MIXED = ("aA", "éA", "字あ", "字a", " \u3000", "a ", "\r\n", " \n", "!\n", "a\u0301", "'s", "．ａ", "7٣", "☃\u0378")
LAST = ("", "1", "a", "字", "!", "\n")


def texts(which: str, length: int) -> list[str]:
    """Each unit again and again, and then something else."""
    units, ends = ("a 字!", LAST[:2]) if which == "quick" else ((*CHARACTERS, *MIXED), LAST)
    return [(unit * length)[:length] + end for unit in units for end in ends]


def main(folder: str, which: str, length: str, *names: str) -> None:
    """The command line; with `all` the tokens are turned back into texts, too."""
    for name in names:
        refused, slowest = 0, 0.0
        with tiny_vocabulary("bpe", Path(folder), name) as vocabulary:
            for text in texts(which, int(length)):
                begun = time.perf_counter()
                try:
                    tokens = vocabulary.tokenize(text, add_special=False, parse_special=True)
                    assert which == "quick" or vocabulary.detokenize(tokens, special=True) == text
                except InvalidText:
                    refused += 1
                slowest = max(slowest, time.perf_counter() - begun)
        print(json.dumps([name, refused, slowest]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
