"""Texts that llama.cpp's regular expressions would not stand are split on a large stack, or refused: never a crash."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.pre_tokenizers import ALIKE, CHARACTERS, DEEP, MIXED
from helpers.tiny_vocabulary import tiny_vocabulary
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.llama.stretches import FEW, LOOPS, MOST, stretches
from erllama_py.errors import InvalidText

ANY = st.text(st.sampled_from("aA7 \n!字é\u3000\u0378") | st.characters(exclude_categories=["Cs"]), max_size=60)
# What the usual expressions match at a time, by Python's tables; `\w` without digits and `_` are letters.
MATCHES = (r"[^\W\d_]+", r"\d+", r"\s+", r"[^\w\s]+[\r\n]*")
EVERYTHING = bool(os.environ.get("ERLLAMA_TOKENIZERS"))


@pytest.mark.slow
@given(ANY)
def test_the_bound_is_never_less_than_the_longest_match(text: str) -> None:
    """Nor than what goes by Python's tables."""
    found = stretches("gpt-4o")
    assert found is not None
    longest = max((len(match) for one in MATCHES for match in re.findall(one, text)), default=0)
    assert found.bound(text) >= max(longest, found.likely(text))


@given(st.sampled_from("aA7! "), st.integers(1, 3 << 18))
def test_a_run_is_as_long_as_it_is(character: str, length: int) -> None:
    """Also where it goes on in the next block that is looked at, and beside others."""
    found = stretches("gpt-4o")
    assert found is not None
    other = "a" if character in "7! " else "7"
    assert found.bound(character * length) == found.likely(other + character * length + other) == length


def test_words_with_single_spaces_are_one_match_where_they_are() -> None:
    """In EXAONE's rules; in others a space ends it."""
    usual, exaone = stretches("gpt-4o"), stretches("exaone-moe")
    assert usual is not None
    assert exaone is not None
    assert (usual.bound("some words here"), exaone.bound("some words here")) == (5, 15)


def test_rules_that_are_loops_stand_any_text() -> None:
    """A name that nobody knows is not among them."""
    assert all(stretches(name) is None for name in LOOPS)
    assert stretches("of-tomorrow") is not None
    assert not LOOPS & {*DEEP, *ALIKE}


def test_long_texts_of_short_words_are_not_refused() -> None:
    """Whatever they are written in."""
    found = stretches("gpt-4o")
    assert found is not None
    for words in ("hello, world ", "春眠不覚暁，処処聞啼鳥。\n", "Привет мир! "):
        text = words * (3 * MOST // len(words))
        assert found.problem(text, found.bound(text)) is None


@pytest.mark.slow
def test_what_is_too_long_is_refused_with_its_length(tmp_path: Path) -> None:
    """At once, and nothing less is."""
    with tiny_vocabulary("bpe", tmp_path, "gpt-4o") as vocabulary:
        assert vocabulary.tokenize("a" * MOST, add_special=False, parse_special=False)
        with pytest.raises(InvalidText, match=f"{MOST + 1:,} characters of one kind"):
            vocabulary.tokenize("a" * (MOST + 1), add_special=False, parse_special=False)
    with tiny_vocabulary("bpe", tmp_path, "superbpe") as vocabulary, pytest.raises(InvalidText, match="20,000 digits"):
        vocabulary.tokenize("7" * 20_000, add_special=False, parse_special=False)


@pytest.mark.slow
def test_long_runs_of_any_character_kill_no_process(tmp_path: Path) -> None:
    """Each run in a child process, and what comes back is the text. `ERLLAMA_TOKENIZERS=1` tries all categories."""
    which, length = ("all", "90000") if EVERYTHING else ("quick", "30000")
    names = (*DEEP, *ALIKE) if EVERYTHING else ("gpt-4o", "deepseek-v3", "default")
    program = [sys.executable, "-m", "helpers.pre_tokenizers", str(tmp_path), which, length, *names]
    ran = subprocess.run(program, check=False, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert ran.returncode == 0, (ran.stdout, ran.stderr[-2000:])
    done = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [name for name, *_ in done] == list(names)
    refused = {name for name, count, _ in done if count}
    assert refused <= {"superbpe", "deepseek-llm"}


def test_there_is_a_character_of_each_category() -> None:
    """Of those that a text can have."""
    import unicodedata

    assert len({unicodedata.category(one) for one in CHARACTERS + "".join(MIXED)}) == 29
    assert FEW < MOST


@pytest.mark.parametrize("character", "\t \x85\u00a0\u2028\u2029\u3000")
def test_all_that_llama_cpp_takes_for_white_space_is_counted(character: str) -> None:
    """A run of it takes the square of its length where a rule looks for its end: 3 minutes for 90,000."""
    found = stretches("deepseek-llm")
    assert found is not None
    text = (character + "\u3000") * 10_000 + "1"
    assert "20,000 characters of white space" in (found.problem(text, found.bound(text)) or "")
