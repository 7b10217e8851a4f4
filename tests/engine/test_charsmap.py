"""Tables of characters of unigram tokenizers: what leads llama.cpp out of them is found before a text does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.crafted_vocabularies import charsmap, one_step
from helpers.project import TOP
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.llama.charsmap import MOST_BYTES, charsmap_fault
from erllama_py.engine.llama.known_faults import unescaped, vocabulary_fault

COUNT = int(os.environ.get("ERLLAMA_MUTATED_FILES", "24"))


@given(st.integers(1, 0xF4).filter(lambda byte: byte not in (0xC0, 0xC1)), st.binary(max_size=40))
def test_a_table_of_one_step_is_sound(byte: int, text: bytes) -> None:
    """Whatever the byte becomes."""
    assert charsmap_fault(one_step(byte, text + b"\0")) is None


@given(st.binary(max_size=60))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    """There is an answer, also to what llama.cpp refuses by itself."""
    charsmap_fault(data)
    charsmap_fault(len(data).to_bytes(4, "little") + data + b"\0")


def test_what_leads_out_of_a_table_is_a_fault() -> None:
    """At its root, behind a step, at a number beyond the texts, at a text without an end, at one that is too long."""
    assert charsmap_fault(b"") is None
    assert "leads out" in (charsmap_fault(charsmap([1 << 10], b"a\0")) or "")
    assert "leads out" in (charsmap_fault(one_step(0x61, b"a\0", size=500)) or "")
    assert "does not end" in (charsmap_fault(one_step(0x61, b"a\0", value=2)) or "")
    assert "does not end" in (charsmap_fault(one_step(0x61, b"a")) or "")
    assert charsmap_fault(one_step(0x61, b"a" * MOST_BYTES + b"\0")) is None
    assert charsmap_fault(one_step(0x61, b"a" * (MOST_BYTES + 1) + b"\0"))


@pytest.mark.slow
def test_tables_that_are_found_sound_end_no_process(tmp_path: Path) -> None:
    """Tables mutated at random; those without a fault are used for every character, in one process."""
    environment = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP / 'tests'}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "helpers.mutated_charsmap", str(COUNT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-200:], done.stderr[-2000:])
    sound, faulty = map(int, done.stdout.split()[-2:])
    assert sound + faulty == COUNT
    assert min(sound, faulty) > 0


@given(st.binary(max_size=20))
def test_escapes_of_rwkv_stand_for_bytes(data: bytes) -> None:
    """Spelled out or as they are."""
    assert unescaped(b"".join(b"\\x%02x" % byte for byte in data)) == data
    assert unescaped(data.replace(b"\\", b"\\\\")) == data
    assert unescaped(rb"\t\n\r\'") == b"\t\n\r'"


@given(st.sets(st.binary(min_size=1, max_size=3), max_size=20))
def test_tokens_of_rwkv_begin_with_tokens(tokens: set[bytes]) -> None:
    """All of them, by their first bytes."""
    escaped = [b"".join(b"\\x%02x" % byte for byte in token) for token in sorted(tokens)]
    assert (vocabulary_fault("rwkv", escaped) is None) == all(token[:1] in tokens for token in tokens)
