"""States that are not sound, though their checksums may be right, and contexts that take no sound ones: what is
refused, whose fault it is, and what the context is worth afterwards. On llama.cpp, with a tiny model of each kind."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from helpers.backends import MEMORY, ON_LLAMA, Subject, make_subject
from helpers.crafted_rows import sections_of
from helpers.tiny_gguf import WINDOW

from erllama_py.engine.backend import Backend, DecodeStatus, MemoryKind, RestoreStatus, Slice
from erllama_py.engine.llama.backend import LlamaBackend

PROMPT = [(7 * i + i * i) % 250 for i in range(330)]
END = 2 * WINDOW
DONE, BAD_BYTES, UNABLE = RestoreStatus.DONE, RestoreStatus.BAD_BYTES, RestoreStatus.UNABLE

pytestmark = ON_LLAMA


def row(backend: Backend, seq_id: int = 0, end: int = END) -> bytes:
    """The state of the first tokens, computed and captured; the sequence is empty then."""
    assert backend.decode([Slice(seq_id, 0, PROMPT[:end], True)]) is DecodeStatus.DONE
    payload = backend.capture(seq_id, 0, end, lambda size: memoryview(bytearray(size)))
    assert payload is not None
    assert backend.remove(seq_id, 0, -1)
    return bytes(payload)


def logits_after(backend: Backend, seq_id: int) -> bytes:
    """What a decode of the rest of the prompt comes to."""
    assert backend.decode([Slice(seq_id, END, PROMPT[END:], True)]) is DecodeStatus.DONE
    return backend.logits(0)


def with_positions(data: bytes, memory: MemoryKind, number: int, place: int, position: int) -> bytes:
    """The state with another position for one cell of one section: arrays of positions are views of the bytes."""
    changed = bytearray(data)
    sections = sections_of(data, memory)
    assert sections is not None
    if sections[number].recurrent:  # the last section: its position follows the number of states
        at = data.rindex(struct.pack("<Iii", 1, END - 1, 0)) + 4
    else:
        address = numpy.frombuffer(data, "u1").ctypes.data
        at = sections[number].positions[place:].ctypes.data - address
    changed[at : at + 4] = struct.pack("<i", position)
    return bytes(changed)


def spoilt(data: bytes, memory: MemoryKind) -> Iterator[tuple[str, bytes]]:
    """The state with positions that it cannot have, in each of its sections."""
    sections = sections_of(data, memory)
    assert sections is not None
    for number, section in enumerate(sections):
        last = len(section.positions) - 1
        for place in {0, last}:
            for position in (-1, -2, END, END + 7, 1 << 30, int(section.positions[1]) if last else 3):
                if position != section.positions[place]:
                    yield (
                        f"section {number}, {place}: {position}",
                        with_positions(data, memory, number, place, position),
                    )
        everywhere = data
        for place in range(last + 1):
            everywhere = with_positions(everywhere, memory, number, place, -1)
        yield f"section {number} at -1", everywhere


def test_each_section_has_just_the_cells_of_the_range(subject: Subject, backend: Backend) -> None:
    """Positions that it cannot have are refused, in whichever section; the context takes sound rows afterwards."""
    data = row(backend)
    assert backend.restore(1, 0, END, memoryview(data))
    expected = logits_after(backend, 1)
    assert backend.remove(1, 0, -1)
    for what, changed in spoilt(data, subject[1]):
        assert backend.restore(1, 0, END, memoryview(changed)) is BAD_BYTES, what
        assert backend.positions(1) == (-1, -1)
        assert backend.restore(1, 0, END, memoryview(data)) is DONE, what
        assert backend.remove(1, 0, -1)
    assert backend.restore(1, 0, END, memoryview(data))
    assert logits_after(backend, 1) == expected


def test_a_state_has_as_many_sections_as_its_memory_has_caches(subject: Subject, backend: Backend) -> None:
    """One less or one more is no state."""
    data, memory = row(backend), subject[1]
    sections = sections_of(data, memory)
    assert sections is not None
    kinds = {"full": [False], "window": [False, False], "recurrent": [True], "hybrid": [False, True]}
    assert [section.recurrent for section in sections] == kinds[memory]
    for changed in (data[:-1], data + b"\0", data + data[8:], data[:8], data[: len(data) // 2], b""):
        assert backend.restore(1, 0, END, memoryview(changed)) is BAD_BYTES


def test_where_there_are_no_cells_no_row_is_to_blame(subject: Subject) -> None:
    """It is sound, and is taken when there is room."""
    backend = subject[2](n_ctx=512, n_seq_max=4)
    facts = backend.load(lambda _done: True)
    data = row(backend)
    if subject[1] == "full":
        for seq_id in (0, 1, 2):
            assert backend.decode([Slice(seq_id, 0, PROMPT[: facts.n_ctx // 3 - 10], False)]) is DecodeStatus.DONE
        assert backend.restore(3, 0, END, memoryview(data)) is UNABLE
        assert backend.remove(1, 0, -1)
    assert backend.restore(3, 0, END, memoryview(data)) is DONE
    backend.close()


@pytest.mark.parametrize("seen", [False, True], ids=["its first row", "others before"])
def test_a_row_of_another_layout_is_to_blame(subject: Subject, seen: bool) -> None:
    """Values laid out the other way, keys of another type: also where a context has not taken or given a row yet."""
    if subject[1] == "recurrent":
        pytest.skip("a recurrent state has one layout")
    for options in ({"flash_attn": False}, {"flash_attn": True, "type_k": "q8_0"}):
        other, backend = subject[2](**options), subject[2](flash_attn=True)
        for one in (other, backend):
            one.load(lambda _done: True)
        data = row(other)
        sound = row(backend) if seen else b""
        assert backend.restore(1, 0, END, memoryview(data)) is BAD_BYTES
        assert backend.positions(1) == (-1, -1)
        assert not seen or backend.restore(1, 0, END, memoryview(sound)) is DONE
        other.close()
        backend.close()


def break_scratch(backend: Backend, data: bytes) -> None:
    """Do to the context what only unchecked bytes can: cells at -1 in the sequence that rows pass through."""
    assert isinstance(backend, LlamaBackend)
    states: Any = backend._states
    states._put(memoryview(data))
    states._clear()


def test_a_context_that_takes_no_sound_row_blames_none_and_mends_itself(subject: Subject, backend: Backend) -> None:
    """It says so once, goes on with what it has, and is cleared when no sequence holds anything."""
    if subject[1] != "window":
        pytest.skip("only a window's second cache can be broken so")
    data = row(backend)
    *_, (_, broken) = spoilt(data, subject[1])
    break_scratch(backend, broken)
    assert backend.decode([Slice(0, 0, PROMPT[:100], True)]) is DecodeStatus.DONE
    for _ in range(3):
        assert backend.restore(1, 0, END, memoryview(data)) is UNABLE
        assert backend.positions(1) == (-1, -1)
    assert backend.positions(0)[1] == 99
    assert backend.decode([Slice(0, 100, PROMPT[100:120], True)]) is DecodeStatus.DONE
    assert backend.remove(0, 0, -1)
    assert backend.restore(1, 0, END, memoryview(data)) is DONE
    assert row(backend, 2) == data


def test_no_bytes_make_a_reader_fail_or_take_long(subject: Subject, backend: Backend) -> None:
    """Random words, also in place of counts: what is no state is None, at once."""
    data, memory, dice = row(backend, end=5), subject[1], random.Random(4)
    for _ in range(2000):
        changed = bytearray(data)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(0, len(data) - 4)
            changed[at : at + 4] = struct.pack(
                "<I", dice.choice([0, 1, 2, 255, 1 << 16, (1 << 32) - 1, dice.getrandbits(32)])
            )
        del changed[dice.randrange(len(changed)) if dice.random() < 0.2 else len(changed) :]
        sections_of(bytes(changed), memory)
    assert sections_of(bytes(8) + struct.pack("<IIII", 1, 1, 0, 1) + bytes(1 << 20), memory) is None


def test_states_of_other_kinds_of_memory_are_none_of_this(subject: Subject, backend: Backend, models: Path) -> None:
    """However alike their first sections are."""
    for kind, memory in MEMORY.items():
        if memory != subject[1]:
            other = make_subject("llama", kind, models)
            other.load(lambda _done: True)
            assert backend.restore(1, 0, END, memoryview(row(other))) is BAD_BYTES
            other.close()


@pytest.mark.parametrize(
    "options", [{"flash_attn": False}, {"flash_attn": True, "type_k": "q8_0"}], ids=["f16", "q8_0"]
)
@pytest.mark.parametrize("bits", [b"\xff\xff", b"\x00\x7c", b"\x00\xfc"], ids=["none", "infinite", "-infinite"])
def test_numbers_that_are_none_never_come_in(subject: Subject, options: dict[str, Any], bits: bytes) -> None:
    """Else the logits of others are no numbers either: cells that nobody holds are masked by adding to what was
    computed over them, and a recurrent state is forgotten by multiplying it with 0."""
    backend = subject[2](**options)
    backend.load(lambda _done: True)
    data, memory = bytearray(row(backend)), subject[1]
    sections = sections_of(bytes(data), memory)
    assert sections is not None
    for part in (part for section in sections for part in section.parts if part.nbytes):
        block = {1: 2, 8: 34, 0: 4}[part.kind]
        last = part.start + part.nbytes - block
        spoilt_bytes = bytearray(data)
        spoilt_bytes[last : last + len(bits)] = bits
        if block == 4:  # 32 bits: the exponent is in the upper half
            spoilt_bytes[last : last + 4] = b"\0\0" + {0x7C: b"\x80\x7f", 0xFC: b"\x80\xff", 0xFF: b"\xff\xff"}[bits[1]]
        assert backend.restore(1, 0, END, memoryview(bytes(spoilt_bytes))) is BAD_BYTES
        assert backend.positions(1) == (-1, -1)
    for seq_id in (1, 2, 3):
        assert backend.decode([Slice(seq_id, 0, PROMPT[:100], True)]) is DecodeStatus.DONE
        assert numpy.isfinite(numpy.frombuffer(backend.logits(0), "f4")).all()
    backend.close()
