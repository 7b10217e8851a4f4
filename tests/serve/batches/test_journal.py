"""What is known of a batch by its files, wherever their writing was cut off."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.batches import journal
from erllama_py.serve.batches.answers import Answered, answered, unanswered
from erllama_py.serve.batches.journal import (
    ENDED,
    Cancelling,
    Created,
    Ended,
    Finalizing,
    Record,
    Refused,
    State,
    Validated,
    line_of,
)
from erllama_py.serve.batches.lines import LineProblem, Place

CREATED = Created(
    at=1, endpoint="/v1/completions", input_file_id="file-1", output_file_id="file-2", error_file_id="file-3",
    completion_window="24h", expires_at=86_401,
)  # fmt: skip
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.just(CREATED),
    st.builds(Validated, at=st.integers(1, 99), total=st.integers(1, 9), endpoint=st.just("/v1/completions")),
    st.builds(Refused, at=st.integers(1, 99), problems=st.just((LineProblem("empty_file", "no line"),))),
    st.builds(Cancelling, at=st.integers(1, 99)),
    st.builds(Finalizing, at=st.integers(1, 99), expired=st.booleans()),
    st.builds(Ended, at=st.integers(1, 99), completed=st.integers(0, 9), failed=st.integers(0, 9)),
)
HISTORIES = st.lists(RECORDS, max_size=8).map(lambda more: [CREATED, *more])


def of(records: list[Record]) -> State:
    """The state after records that follow the first."""
    state = State(created=CREATED, endpoint=CREATED.endpoint)
    for record in records:
        state = journal.after(state, record)
    return state


@given(HISTORIES, st.data())
def test_any_beginning_of_a_journal_tells_a_state(records: list[Record], data: st.DataObject) -> None:
    """That of its whole records; the rest is cut off, and what is written then is read as if nothing had been torn."""
    written = b"".join(map(line_of, records))
    cut = written[: data.draw(st.integers(0, len(written)))]
    state, size = journal.read(cut)
    whole = cut[:size]
    assert whole == b"".join(map(line_of, records[: whole.count(b"\n")]))
    assert b"\n" not in cut[size:]
    assert state == (of(records[1 : whole.count(b"\n")]) if whole else None)
    assert journal.read(whole + b"".join(map(line_of, records[whole.count(b"\n") :]))) == journal.read(written)


@given(HISTORIES, st.binary(max_size=40))
def test_what_a_loss_of_power_leaves_is_cut_off(records: list[Record], rest: bytes) -> None:
    """Zeros mostly: whatever it is, the records before it count."""
    written = b"".join(map(line_of, records))
    state, size = journal.read(written + b"\0" + rest)
    assert (state, size) == journal.read(written) == (of(records[1:]), len(written))


@given(HISTORIES, st.data())
def test_a_record_that_was_changed_is_none(records: list[Record], data: st.DataObject) -> None:
    """One bit is enough: what stands before it counts, and it is written again."""
    written = bytearray(b"".join(map(line_of, records)))
    at = data.draw(st.integers(0, len(written) - 1))
    before = bytes(written[:at]).count(b"\n")
    written[at] ^= 1 << data.draw(st.integers(0, 7))
    state, size = journal.read(bytes(written))
    assert size == sum(len(line_of(record)) for record in records[:before])
    assert state == (of(records[1:before]) if before else None)


@given(HISTORIES)
def test_a_batch_that_is_over_stays_as_it_is(records: list[Record]) -> None:
    """A state never goes back, and a record that is written twice counts once."""
    state = of([])
    order = ["validating", "in_progress", "cancelling", "finalizing", *sorted(ENDED)]
    for record in records:
        then = journal.after(state, record)
        assert journal.after(then, record) == then or isinstance(record, Ended)
        assert not state.over or then == state
        assert then.over or order.index(then.status) >= order.index(state.status)
        state = then


@pytest.mark.parametrize(
    ("records", "status"),
    [
        ([], "validating"),
        ([Validated(at=2, total=3, endpoint="/v1/completions")], "in_progress"),
        ([Refused(at=2, problems=())], "failed"),
        ([Cancelling(at=2)], "cancelling"),
        ([Cancelling(at=2), Ended(at=3, completed=0, failed=0)], "cancelled"),
        ([Ended(at=3, completed=0, failed=0)], "validating"),
        (
            [
                Validated(at=2, total=3, endpoint="/v1/completions"), Finalizing(at=3, expired=False),
                Cancelling(at=4), Ended(at=5, completed=3, failed=0),
            ],
            "completed",
        ),
        (
            [
                Validated(at=2, total=3, endpoint="/v1/completions"), Finalizing(at=3, expired=False),
                Refused(at=4, problems=()),
            ],
            "failed",
        ),
        (
            [
                Validated(at=2, total=3, endpoint="/v1/completions"), Finalizing(at=3, expired=True),
                Ended(at=5, completed=1, failed=2),
            ],
            "expired",
        ),
    ],
)  # fmt: skip
def test_the_states_of_a_batch(records: list[Any], status: str) -> None:
    """As OpenAI's clients know them."""
    assert of(records).status == status


PLACES = st.builds(
    Place, st.integers(1, 10**6), st.just(0), st.just(0), st.just(0), st.text(min_size=1, max_size=10)
)  # fmt: skip
ANSWERS = st.one_of(
    st.tuples(PLACES, st.just(b'{"a":\n[1,2]}')).map(
        lambda one: (one[0], answered("batch_0a", one[0], 200, "r", one[1]))
    ),
    PLACES.map(lambda place: (place, unanswered("batch_0a", place, "batch_expired", "too late\n"))),
)


@given(st.lists(ANSWERS, max_size=8), st.integers(1, 40), st.data())
def test_an_answer_counts_as_soon_as_its_line_is_whole(
    answers: list[tuple[Place, bytes]], size: int, data: st.DataObject
) -> None:
    """In whatever pieces the file is read, and wherever it ends."""
    written = b"".join(line for _, line in answers)
    assert written.count(b"\n") == len(answers)
    cut = written[: data.draw(st.integers(0, len(written)))]
    found = Answered("batch_0a")
    for at in range(0, len(cut), size):
        found.feed(cut[at : at + size])
    count = cut.count(b"\n")
    assert found.size == sum(len(line) for _, line in answers[:count])
    assert found.lines == {place.line for place, _ in answers[:count]}


def test_after_what_is_no_answer_nothing_counts() -> None:
    """A file may have been torn in the middle by a loss of power: what follows is written again."""
    place = Place(7, 0, 0, 0, "a")
    line = answered("batch_0a", place, 200, "r", b"{}")
    found = Answered("batch_0a")
    found.feed(line + b"\0\0\0\n")
    found.feed(line)
    assert (found.lines, found.size) == ({7}, len(line))


@pytest.mark.parametrize(
    "line_id", ["batch_req_0b_8", "batch_req_0a_-8", "batch_req_0a_08", "batch_req_0a_ 8", "8", ""]
)
def test_an_answer_of_another_batch_does_not_count(line_id: str) -> None:
    """Nor does one whose line no batch has: else a line without an answer would be taken for answered."""
    found = Answered("batch_0a")
    found.feed(msgspec.json.encode({"id": f"batch_{line_id}"}) + b"\n")
    assert (found.lines, found.size) == (set(), 0)
