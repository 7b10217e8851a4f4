"""What the bytes of a captured state say of themselves: the format of `llama_state_seq_get_data`. Pure.

    preamble │ section │ section …          one for each cache of the memory

Full attention has one section, a sliding window two (the layers that see everything, and those that do not), a hybrid
one or more of attention and then one of its recurrent state, a recurrent model that alone. A section says which cells
it holds, then how they are laid out, with their numbers in between:

    attention: 1, cells │ position, 1, sequence of each │ transposed, layers │ type, bytes a cell, numbers … of the keys
               │ the same of the values; transposed ones: type, bytes a number, numbers a cell, numbers …
    recurrent: 1 │ position, 0 │ 0, layers │ type, bytes, numbers …

llama.cpp takes any position. Cells at -1 can never be removed from their sequence again, whatever the section. So
`read_state` goes through all of it, and what does not end where the bytes do is no state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy

_PREAMBLE = 8  # magic, sequence
_ATTENTION = struct.Struct("<II")  # streams (1 in a unified cache), cells
_RECURRENT = struct.Struct("<Iii")  # states, position, number of sequences (left out where one is saved)
_LAYOUT = struct.Struct("<II")  # transposed (attention), layers
_PART = struct.Struct("<iQ")  # type, bytes a cell
_TRANSPOSED = struct.Struct("<iII")  # type, bytes a number, numbers a cell
# Words of a cell: position, number of sequences (1), sequence; some models have two coordinates and the token before
# the last.
_CELL_WORDS = (3, 6)
_WORD = 4
# llama.cpp has no models of more. A part may be empty, so a larger number could keep a reader busy for minutes.
_MOST_LAYERS = 1024

PREAMBLE_BYTES = _PREAMBLE

# By `ggml_type`. Bytes of a number, and the bits of the infinite one: f32, f16, bf16.
_F16 = 1
_INFINITE = {0: (4, 0x7F80_0000), _F16: (2, 0x7C00), 30: (2, 0x7F80)}
# Bytes of a block, and how many factors in f16 it begins with: q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl.
_BLOCKS = {2: (18, 1), 3: (20, 2), 6: (22, 1), 7: (24, 2), 8: (34, 1), 20: (18, 1)}


class Part(NamedTuple):
    """Numbers of one layer: their type, where they lie, and their bytes."""

    kind: int
    start: int
    nbytes: int


class Section(NamedTuple):
    """The cells of one cache: their `positions` in any order, the `form` of their bytes, whatever their number, and
    where these lie."""

    positions: Any  # a numpy array of i4
    form: tuple[object, ...]
    recurrent: bool
    parts: tuple[Part, ...]


Parts = tuple[tuple[object, ...], tuple[Part, ...], int]  # their form, where they lie, and where they end


def read_state(payload: memoryview, *, attention: bool, recurrent: bool) -> tuple[Section, ...] | None:
    """The sections of a state, whose memory has attention, a recurrent state, or both; None for anything else."""
    view = payload.cast("B")
    for sections, end in _sections(view, _PREAMBLE, attention, recurrent):
        if end == len(view):
            return sections
    return None


def _sections(
    view: memoryview, start: int, attention: bool, recurrent: bool, depth: int = 0
) -> Iterator[tuple[tuple[Section, ...], int]]:
    """All that could stand from `start` on, and where it ends. There is more than one way to read a section only where
    cells have more words, or layers no values of their own."""
    if depth and not recurrent and start == len(view):
        yield (), start
    if recurrent and (depth or not attention) and (last := _recurrent_section(view, start)) is not None:
        yield (last,), len(view)
    if attention and depth < 3:
        for section, end in _attention_sections(view, start):
            for others, last_end in _sections(view, end, attention, recurrent, depth + 1):
                yield (section, *others), last_end


def _attention_sections(view: memoryview, start: int) -> Iterator[tuple[Section, int]]:
    if len(view) < start + _ATTENTION.size:
        return
    streams, count = _ATTENTION.unpack_from(view, start)
    if streams != 1 or count == 0:
        return
    for words in _CELL_WORDS:
        layout = start + _ATTENTION.size + _WORD * words * count
        if len(view) < layout + _LAYOUT.size:
            return
        cells = numpy.frombuffer(view, "<i4", words * count, start + _ATTENTION.size).reshape(count, words)
        transposed, layers = _LAYOUT.unpack_from(view, layout)
        if (cells[:, 1] != 1).any() or transposed > 1 or layers > _MOST_LAYERS:
            continue
        keys = _parts(view, layout + _LAYOUT.size, layers, count)
        if keys is None:
            continue
        form, parts, end = keys
        form = (words, transposed, layers, form)
        values = (_transposed_parts if transposed else _parts)(view, end, layers, count)
        if values is not None:
            yield Section(cells[:, 0], (*form, values[0]), False, parts + values[1]), values[2]
        yield Section(cells[:, 0], (*form, ()), False, parts), end  # a latent cache has no values of its own


def _parts(view: memoryview, start: int, layers: int, count: int) -> Parts | None:
    """Of each layer the numbers of all cells, one cell after the other."""
    form, parts = list[object](), list[Part]()
    for _ in range(layers):
        if len(view) < start + _PART.size:
            return None
        kind, nbytes = _PART.unpack_from(view, start)
        form.append((kind, nbytes))
        parts.append(Part(kind, start + _PART.size, nbytes * count))
        start += _PART.size + nbytes * count
        if start > len(view):
            return None
    return tuple(form), tuple(parts), start


def _transposed_parts(view: memoryview, start: int, layers: int, count: int) -> Parts | None:
    """Of each layer the numbers of all cells, one place in the cell after the other."""
    form, parts = list[object](), list[Part]()
    for _ in range(layers):
        if len(view) < start + _TRANSPOSED.size:
            return None
        kind, nbytes, width = _TRANSPOSED.unpack_from(view, start)
        form.append((kind, nbytes, width))
        parts.append(Part(kind, start + _TRANSPOSED.size, nbytes * width * count))
        start += _TRANSPOSED.size + nbytes * width * count
        if start > len(view):
            return None
    return tuple(form), tuple(parts), start


def _recurrent_section(view: memoryview, start: int) -> Section | None:
    """One state, up to the end of the bytes: which layers have a part of it, only the model says."""
    at = start + _RECURRENT.size + _LAYOUT.size
    if len(view) < at:
        return None
    states, position, sequences = _RECURRENT.unpack_from(view, start)
    transposed, layers = _LAYOUT.unpack_from(view, start + _RECURRENT.size)
    if (states, sequences, transposed) != (1, 0, 0) or layers > _MOST_LAYERS:
        return None
    form, parts = list[object](), list[Part]()
    while at < len(view):
        if len(form) == 2 * layers or (one := _parts(view, at, 1, 1)) is None:
            return None
        form += one[0]
        parts += one[1]
        at = one[2]
    return Section(numpy.array([position], "<i4"), (layers, *form), True, tuple(parts))


# --- their numbers -----------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """Parts of one type and size at equal distances: those of all layers mostly, which are looked at as one array."""

    kind: int
    start: int
    nbytes: int
    layers: int = 1
    step: int = 0


def are_finite(payload: memoryview, sections: tuple[Section, ...]) -> bool:
    """Whether all numbers of these sections are numbers, and none is infinite. Of blocks of small whole numbers the
    factors are looked at; types that are not known here are not.

    One that is none would spoil the logits of others, too: a cell that nobody holds is masked by adding to what was
    computed over it, and a recurrent state is forgotten by multiplying it with 0.
    """
    view = payload.cast("B")
    return all(_is_finite(view, run) for section in sections for run in _runs(section.parts))


def _runs(parts: tuple[Part, ...]) -> Iterator[_Run]:
    run: _Run | None = None
    for part in parts:
        if not part.nbytes:
            continue
        step = 0 if run is None else part.start - run.start - (run.layers - 1) * run.step
        alike = run is not None and (part.kind, part.nbytes) == (run.kind, run.nbytes)
        if run is not None and alike and (run.layers == 1 or step == run.step):
            run = run._replace(layers=run.layers + 1, step=step)
            continue
        if run is not None:
            yield run
        run = _Run(*part)
    if run is not None:
        yield run


def _is_finite(view: memoryview, run: _Run) -> bool:
    kind, start, nbytes, layers, step = run
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    if kind in _BLOCKS:
        block, factors = _BLOCKS[kind]
        shape, steps, kind = (layers, nbytes // block, factors), (step, block, 2), _F16
    elif kind in _INFINITE:
        width = _INFINITE[kind][0]
        shape, steps = (layers, nbytes // width), (step, width)
    else:
        return True
    width, infinite = _INFINITE[kind]
    signed: Any = numpy.ndarray(shape, f"<i{width}", view, start, steps)
    unsigned: Any = numpy.ndarray(shape, f"<u{width}", view, start, steps)
    # The largest exponent stands for what is no number; sign apart, such bits are above all others.
    return not signed.size or bool(signed.max() < infinite and unsigned.max() < infinite + (1 << 8 * width - 1))
