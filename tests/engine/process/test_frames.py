"""What crosses between two processes: every frame comes out as it went in, and nothing else comes out at all."""

from __future__ import annotations

import ast
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args

import msgspec
import pytest
from helpers.any_value import structs
from helpers.project import PACKAGE
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine import jobs
from erllama_py.engine.process.wire.frames import BadFrame, Frame, Jobs, Outcomes, Released, Slot, decode, encode
from erllama_py.engine.process.wire.packets import PACKET_BYTES, Joiner, packets_of

FRAMES = get_args(Frame)


def kinds(union: UnionType | Any) -> list[Any]:
    """The classes of a union, as parameters that are named after them."""
    return [pytest.param(one, id=one.__name__) for one in get_args(union)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds(jobs.Job))
def test_every_job_comes_out_as_it_went_in(kind: type[msgspec.Struct]) -> None:
    """With any value in any field, and at its defaults."""

    @given(structs(kind))
    def comes_out(job: Any) -> None:
        assert decode(encode(Jobs([job, job]))) == Jobs([job, job])

    comes_out()


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds(jobs.Outcome))
def test_every_outcome_comes_out_as_it_went_in(kind: type[msgspec.Struct]) -> None:
    """With any value in any field, and at its defaults."""

    @given(structs(kind))
    def comes_out(outcome: Any) -> None:
        assert decode(encode(Outcomes([outcome, outcome]))) == Outcomes([outcome, outcome])

    comes_out()


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds(Frame))
def test_every_frame_comes_out_as_it_went_in(kind: type[msgspec.Struct]) -> None:
    """The control frames too, with whole configurations in them."""

    @given(structs(kind))
    def comes_out(frame: Any) -> None:
        assert decode(encode(frame)) == frame

    comes_out()


def test_no_two_frames_have_the_same_tag() -> None:
    """One decoder takes all of them, whoever reads."""
    tags = [one.__struct_config__.tag for one in FRAMES]
    assert len({*tags}) == len(tags)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_a_clear_error(data: bytes) -> None:
    """Whatever they are: never another error, and never a frame that was not sent."""
    with suppress(BadFrame):
        frame = decode(data)
        assert decode(encode(frame)) == frame


@pytest.mark.slow
@given(st.sampled_from(FRAMES).flatmap(structs), st.data())
def test_a_torn_frame_is_a_clear_error(frame: Any, data: st.DataObject) -> None:
    """None of its beginnings is taken for it."""
    whole = encode(frame)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadFrame):
        decode(whole[:cut])


def test_a_frame_of_a_kind_that_is_not_known_is_a_clear_error() -> None:
    """As of a child of another version."""
    with pytest.raises(BadFrame, match="'unheard'"):
        decode(msgspec.msgpack.encode({"type": "unheard"}))


@pytest.mark.parametrize(
    "job",
    [
        jobs.Grant(1 << 65, 1),
        jobs.Cancel(cast("int", object())),
    ],
)
def test_what_cannot_be_written_is_a_clear_error(job: Any) -> None:
    """At the sender, and nothing of it is sent."""
    with pytest.raises(BadFrame, match="cannot be sent"):
        encode(Jobs([job]))


def test_a_payload_lies_in_the_frame_where_there_is_no_slot() -> None:
    """Its bytes are not copied once more when it is read."""
    row = jobs.Restore(request_id=1, seq_id=2, start=0, end=4, payload=memoryview(b"cells"))
    frame = decode(encode(Jobs([row], [None])))
    assert isinstance(frame, Jobs)
    assert frame.jobs == [row]


def test_a_text_of_one_token_is_a_short_frame() -> None:
    """So that many fit into the kernel's buffer for a reader that is late."""
    assert len(encode(Outcomes([jobs.Text(1, " the", [262])]))) < 120


def test_slots_come_out_as_they_went_in() -> None:
    """Beside the outcomes that they are for."""
    frame = Outcomes([], [Slot(1, 1 << 62, 4096, 12_000_000, 1 << 28), None])
    assert decode(encode(frame)) == frame
    assert decode(encode(Released([1, 2], [3]))) == Released([1, 2], [3])


@pytest.mark.slow
def test_nothing_is_pickled() -> None:
    """Neither side could be made to run what the other has sent."""
    serialisers = {"pickle", "marshal", "shelve", "multiprocessing"}
    users = [
        found
        for path in Path(PACKAGE).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for found in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else
            [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
        if found.partition(".")[0] in serialisers
    ]  # fmt: skip
    assert users == []


# --- packets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 1, PACKET_BYTES - 1, PACKET_BYTES, 2 * PACKET_BYTES - 2, 5 * PACKET_BYTES])
def test_packets_are_put_together_again(nbytes: int) -> None:
    """A frame of any length, in packets that the kernel takes."""
    data = bytes(index % 251 for index in range(nbytes))
    packets = [b"".join(packet) for packet in packets_of(data)]
    assert max(map(len, packets)) <= PACKET_BYTES
    joiner = Joiner()
    assert [got for packet in packets if (got := joiner.add(packet)) is not None] == [data]
    assert not joiner.is_between


def test_short_frames_come_between_the_parts_of_a_long_one() -> None:
    """What a finalizer sends does not wait for it."""
    joiner = Joiner()
    first, *rest = [b"".join(packet) for packet in packets_of(bytes(2 * PACKET_BYTES))]
    assert joiner.add(first) is None
    assert joiner.is_between
    assert joiner.add(b"\0short") == b"short"
    assert [joiner.add(packet) for packet in rest][-1] == bytes(2 * PACKET_BYTES)


def test_a_packet_of_no_kind_is_a_clear_error() -> None:
    """It would be put together with something."""
    with pytest.raises(BadFrame, match="kind"):
        Joiner().add(b"\x07something")


def test_a_part_that_is_shorter_than_any_is_a_clear_error() -> None:
    """A side that has gone wrong could send them forever, and each would be kept."""
    with pytest.raises(BadFrame, match="part"):
        Joiner().add(b"\1")
