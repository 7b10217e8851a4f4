"""What a prompt starts from: the laws for any memory, sequence and hit, and the traps of each kind of memory."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.rows import meta
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.keys import TOKEN_BYTES, pack_tokens
from erllama_py.cache.messages import Hit, Located
from erllama_py.cache.policy import is_worth, token_seconds
from erllama_py.cache.walk import Miss
from erllama_py.engine.backend import MemoryKind
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.reuse import (
    NOT_CUTTABLE,
    NOT_WORTH,
    Start,
    choose_start,
    describe_miss,
    is_cuttable,
    reusable,
    usable_rows,
)

KINDS: list[MemoryKind] = ["full", "window", "recurrent", "hybrid"]
RECURRENT: tuple[MemoryKind, ...] = ("recurrent", "hybrid")
WINDOW = 24


def located(tokens: list[int], start: int, end: int, *, logits: bool = False) -> Located:
    row = meta(tokens, start, end)
    return Located(msgspec.structs.replace(row, logits_bytes=4 if logits else 0), "disk", 1000)


def hit_of(prompt: list[int], *ends: int, length: int | None = None, logits: tuple[int, ...] = ()) -> Hit:
    """What a look-up answers when rows of a conversation that goes on as the prompt does end at `ends`."""
    longer = prompt + [9] * (max(ends, default=0) - len(prompt))
    spans = zip((0, *ends), ends, strict=False)
    rows = tuple(located(longer, start, end, logits=end in logits) for start, end in spans)
    found = min(max(ends, default=0), len(prompt)) if length is None else length
    miss = None if found == len(prompt) else Miss("ends", found)
    return Hit(chain=rows, length=found, saved_to=max(ends, default=0), exact=miss is None, miss=miss)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Slot, list[int], MemoryKind, int, Hit | None, bool]:
    """A sequence that may begin as the prompt does, a memory, and a hit as look-ups give them for that memory."""
    memory = draw(st.sampled_from([*KINDS, "window", "window"]))  # the one with most traps
    n_swa = draw(st.integers(1, 60))
    prompt = draw(st.lists(st.integers(0, 1), min_size=1, max_size=120))
    tail = draw(st.lists(st.integers(0, 1), max_size=40))
    held = prompt[: draw(st.integers(0, len(prompt)))] + tail
    first = draw(st.integers(0, len(held))) if memory == "window" else 0
    hit = None
    if draw(st.integers(0, 9)):
        ends = sorted(draw(st.sets(st.integers(1, len(prompt)), max_size=5)))
        length = max(ends, default=0)
        if is_cuttable(memory) and length < len(prompt) and draw(st.integers(0, 2)):
            # The last row goes on differently, or beyond the prompt: it matches in part.
            matching = draw(st.just(len(prompt)) | st.integers(length + 1, len(prompt)))
            ends.append(matching + draw(st.integers(1, 40)))
            length = matching
        logits = tuple(end for end in ends if memory in RECURRENT and draw(st.booleans()))
        hit = hit_of(prompt, *ends, length=length, logits=logits)
    return Slot(0, pack_tokens(held), first), prompt, memory, n_swa, hit, draw(st.booleans())


def check_cut(start: Start, memory: MemoryKind, n_swa: int) -> None:
    """The restored rows are cut back only as this memory allows it."""
    last = start.rows[-1].meta
    assert last.start < start.keep <= last.end
    if start.keep < last.end:
        assert memory == "full" or (memory == "window" and last.end - last.start < n_swa)


@given(cases())
def test_every_start_obeys_the_laws(case: tuple[Slot, list[int], MemoryKind, int, Hit | None, bool]) -> None:
    """For any memory: a prefix, a token left to compute, rows without a gap, cuts where they can be, never a loss."""
    slot, prompt, memory, n_swa, hit, live_logits = case
    packed = pack_tokens(prompt)
    start = choose_start(slot, packed, memory, n_swa, hit, live_logits)
    alone = reusable(slot, packed, memory, n_swa, with_logits=live_logits)
    # The whole prompt is kept where its logits are known, and only there.
    assert 0 <= start.live <= start.keep <= len(prompt)
    assert (start.keep == len(prompt)) == start.by_logits
    if start.by_logits:
        assert live_logits or (
            start.rows and start.rows[-1].meta.end == len(prompt) and start.rows[-1].meta.logits_bytes
        )
    # Live cells are a prefix of both, and are cut only as `reusable` has allowed it.
    end = TOKEN_BYTES * start.live
    assert slot.packed[:end] == packed[:end]
    assert start.live in (0, alone.keep) or (memory == "full" and start.live < alone.keep)
    assert start.keep >= alone.keep
    if not start.rows:
        assert (start.keep, start.kind) == (alone.keep, "live" if alone.keep else "cold")
        assert start.live == start.keep
        return
    # Rows begin where the live cells end, follow each other, and each of them is needed.
    assert hit is not None
    place = hit.chain.index(start.rows[0])
    assert start.rows == hit.chain[place : place + len(start.rows)]
    ends = [start.live, *(row.meta.end for row in start.rows)]
    assert [row.meta.start for row in start.rows] == ends[:-1]
    assert start.live == 0 or memory == "full"
    assert start.rows[0].meta.end > alone.keep or memory != "full"
    assert start.keep <= hit.length
    check_cut(start, memory, n_swa)
    # They give more than the live cells do, by enough to be worth it.
    gains = is_worth(start.keep - alone.keep, token_seconds(row.meta for row in start.rows), 1000 * len(start.rows))
    assert start.keep > alone.keep
    assert gains or start.by_logits
    assert start.kind == ("exact" if hit.exact and start.keep >= len(prompt) - 1 else "partial")


@given(cases())
def test_usable_rows_are_the_beginning_of_the_chain(
    case: tuple[Slot, list[int], MemoryKind, int, Hit | None, bool],
) -> None:
    """Rows are only left off at its end; what they give is what of them may be kept."""
    _, prompt, memory, n_swa, hit, live_logits = case
    if hit is None:
        return
    rows, length, by_logits = usable_rows(hit, len(prompt), memory, n_swa, live_logits)
    assert rows == hit.chain[: len(rows)]  # such hits have reached nothing else
    assert bool(rows) == bool(length)
    assert by_logits == (length == len(prompt))
    if rows:
        assert rows[-1].meta.start < length <= rows[-1].meta.end


@given(cases())
def test_full_attention_leaves_no_row_unused(case: tuple[Slot, list[int], MemoryKind, int, Hit | None, bool]) -> None:
    """It can be cut back anywhere, so all that was found but one token helps."""
    _, prompt, _, n_swa, hit, live_logits = case
    if hit is not None and hit.chain:
        _, length, by_logits = usable_rows(hit, len(prompt), "full", n_swa, live_logits)
        assert length >= min(hit.length, len(prompt) - 1)
        assert by_logits or not (live_logits and hit.exact)


PROMPT = list(range(100))


def start_with(memory: MemoryKind, held: list[int], hit: Hit | None, *, live_logits: bool = False) -> Start:
    return choose_start(Slot(0, pack_tokens(held)), pack_tokens(PROMPT), memory, WINDOW, hit, live_logits)


# memory, tokens held, row ends, matching length, ends with logits, live logits → kind, live, row ends, keep
CASES: list[tuple[str, MemoryKind, int, tuple[int, ...], int, tuple[int, ...], bool, tuple[Any, ...]]] = [
    ("nothing at all", "full", 0, (), 0, (), False, ("cold", 0, (), 0)),
    ("an exact repeat computes one token", "full", 0, (40, 100), 100, (), False, ("exact", 0, (40, 100), 99)),
    ("or none, where its logits are kept", "full", 0, (40, 100), 100, (), True, ("exact", 0, (40, 100), 100)),
    ("a common beginning", "full", 0, (40, 80), 80, (), False, ("partial", 0, (40, 80), 80)),
    ("a row that is cut back", "full", 0, (40, 90), 60, (), False, ("partial", 0, (40, 90), 60)),
    ("rows go after live cells", "full", 40, (40, 80), 80, (), False, ("partial", 40, (80,), 80)),
    ("a row that was begun is taken whole", "full", 50, (40, 80), 80, (), False, ("partial", 40, (80,), 80)),
    ("live cells that are as good are kept", "full", 80, (40, 80), 80, (), False, ("live", 80, (), 80)),
    ("a single token more is worth a row", "full", 79, (40, 80), 80, (), False, ("partial", 40, (80,), 80)),
    ("a live repeat needs no decode with its logits", "full", 100, (100,), 100, (), True, ("live", 100, (), 100)),
    ("rows complete what is live, for the sake of the logits", "full", 99, (40, 100), 100, (), True,
     ("exact", 40, (100,), 100)),
    ("a window restores from its start", "window", 40, (40, 80), 80, (), False, ("partial", 0, (40, 80), 80)),
    ("a short last row of a window is cut", "window", 0, (80, 100), 100, (), False, ("exact", 0, (80, 100), 99)),
    ("a long one is not: it lacks cells", "window", 0, (40, 100), 100, (), False, ("partial", 0, (40,), 40)),
    ("not even with logits at hand", "window", 0, (40, 120), 100, (), True, ("partial", 0, (40,), 40)),
    ("a short one is, with logits", "window", 0, (90, 110), 100, (), True, ("exact", 0, (90, 110), 100)),
    ("as long as the window is too long", "window", 0, (70, 94), 90, (), False, ("partial", 0, (70,), 70)),
    ("one less is short enough", "window", 0, (70, 93), 90, (), False, ("partial", 0, (70, 93), 90)),
    ("a recurrent state is not cut", "recurrent", 0, (60, 100), 100, (), False, ("partial", 0, (60,), 60)),
    ("its row has the logits", "recurrent", 0, (60, 100), 100, (60, 100), False, ("exact", 0, (60, 100), 100)),
    ("those of another end are no help", "hybrid", 0, (60, 100), 100, (60,), False, ("partial", 0, (60,), 60)),
    ("those in memory are", "hybrid", 0, (60, 100), 100, (), True, ("exact", 0, (60, 100), 100)),
    ("a live state that the prompt extends is kept", "recurrent", 95, (60, 100), 100, (), False,
     ("live", 95, (), 95)),
    ("one that is shorter than the rows is not", "recurrent", 20, (60,), 60, (), False, ("partial", 0, (60,), 60)),
]  # fmt: skip


@pytest.mark.parametrize("row", CASES, ids=[row[0] for row in CASES])
def test_a_prompt_of_100_tokens_starts_here(row: Any) -> None:
    """A table: what is live, what is saved, and what comes of it."""
    _, memory, held, ends, length, logits, live_logits, expected = row
    hit = hit_of(PROMPT, *ends, length=length, logits=logits)
    start = start_with(memory, PROMPT[:held], hit, live_logits=live_logits)
    assert (start.kind, start.live, tuple(row.meta.end for row in start.rows), start.keep) == expected


@pytest.mark.parametrize(("each", "nbytes", "kept"), [(0.004, 6_000_000, 99), (0.0001, 33_000_000, 90)])
def test_rows_are_read_if_that_takes_less_than_they_spare(each: float, nbytes: int, kept: int) -> None:
    """After 90 live cells: nine tokens take a CPU 36 ms and a GPU 1."""
    row = Located(meta([*PROMPT, *[9] * 50], 0, 150, prefill_seconds=150 * each), "disk", nbytes)
    hit = Hit(chain=(row,), length=100, saved_to=0, exact=True, miss=None)
    assert start_with("full", PROMPT[:90], hit).keep == kept


def test_what_takes_longer_to_read_than_to_compute_is_computed() -> None:
    """And the reason is given."""
    row = Located(meta(PROMPT, 0, 100, prefill_seconds=0.005), "disk", 30_000_000)
    start = start_with("full", [], Hit(chain=(row,), length=100, saved_to=100, exact=True, miss=None))
    assert (start.kind, start.rows, start.miss_reason) == ("cold", (), NOT_WORTH)


def test_where_a_last_row_cannot_be_cut_whole_ones_beside_it_are_used() -> None:
    """A window found two tokens more in a row of another conversation, which is too long to be cut."""
    first, second, other = located(PROMPT, 0, 40), located(PROMPT, 40, 60), located(PROMPT, 40, 90)
    hit = Hit(
        chain=(first, other), reached=(first, second), length=62, saved_to=60, exact=False, miss=Miss("diverges", 62)
    )
    assert usable_rows(hit, len(PROMPT), "window", WINDOW, None) == ((first, second), 60, False)
    assert usable_rows(hit, len(PROMPT), "full", WINDOW, None) == ((first, other), 62, False)


# --- why there was no more ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "kept"), [("full", 99), ("window", 60), ("recurrent", 60), ("hybrid", 60)])
def test_all_is_saved_and_not_all_of_it_can_be_used(memory: MemoryKind, kept: int) -> None:
    """A row longer than the window, or a state without logits: the prompt's last token needs what was before it."""
    start = start_with(memory, [], hit_of(PROMPT, 60, 100))
    assert (start.keep, start.miss_reason) == (kept, None if kept == 99 else NOT_CUTTABLE)
    start = start_with(memory, [], hit_of(PROMPT, 100))
    assert (start.keep, start.miss_reason) == ((99, None) if kept == 99 else (0, NOT_CUTTABLE))


def test_without_the_cache_the_sequence_is_used_alone() -> None:
    """It is starting, or gone; the request goes on, and says so where nothing is live."""
    start = start_with("full", PROMPT[:50], None)
    assert (start.kind, start.keep) == ("live", 50)
    assert start_with("full", [], None).miss_reason == "the cache is not running"
    assert describe_miss(None) == "the cache is not running"


def test_the_reason_is_that_of_where_it_started_from() -> None:
    """Of the live cells where these are used, of the cache where it could have given more."""
    hit = hit_of(PROMPT, 40)
    assert start_with("full", [], hit).miss_reason == "what is saved ends at token 40"
    diverged = start_with("full", [*PROMPT[:40], 7], hit)
    assert diverged.miss_reason == "the prompt diverges from the live sequence at token 40"
    assert start_with("full", PROMPT[:40], hit).miss_reason == "what is live ends at token 40"
    assert start_with("full", [], hit_of(PROMPT, 100)).miss_reason is None


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("empty", "nothing is saved for this model"), ("diverges", "diverges from what is saved at token 7"),
        ("ends", "ends at token 7"), ("saving", "token 7 is still being saved"), ("evicted", "token 7 was evicted"),
        ("bad", "token 7 was found to be damaged"), ("other_parameters", "other settings, or by another build"),
    ],
)  # fmt: skip
def test_each_miss_is_said_in_words(reason: Any, words: str) -> None:
    """With the position, where there is one."""
    hit = Hit(chain=(), length=0, saved_to=0, exact=False, miss=Miss(reason, 7))
    assert words in str(describe_miss(hit, 100))


def test_a_prompt_below_the_gate_is_said_to_be_too_short() -> None:
    """That is why nothing is there, whatever else the cache says; and it is no reason where something was found."""
    nothing = Hit(chain=(), length=0, saved_to=0, exact=False, miss=Miss("empty", 0))
    assert describe_miss(nothing, 100, 101) == "prompts below min_tokens (101) are not saved"
    assert describe_miss(nothing, 100, 100) == "nothing is saved for this model"
    assert describe_miss(nothing, 100, None) == "nothing is saved, because min_tokens is None"
    assert describe_miss(hit_of(PROMPT, 40), 100, 101) == "what is saved ends at token 40"
