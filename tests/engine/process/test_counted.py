"""What is lost between an engine and its process, or comes twice, ends the process with that reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from helpers.anywhere import Anywhere, configuration, nothing_left, running
from helpers.engine import ends, generate
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.jobs import Died, Drop, Text
from erllama_py.engine.process.wire.counted import Counted
from erllama_py.engine.process.wire.frames import BadFrame, Frame, Jobs, Outcomes, encode
from erllama_py.engine.process.wire.payloads import Payloads


@given(counts=st.lists(st.integers(1, 50), min_size=1), which=st.integers(0, 100))
def test_what_is_lost_is_seen_with_the_next(counts: list[int], which: int) -> None:
    """And what comes whole is not."""
    came, lost = Counted("outcomes"), which % len(counts)
    for number, count in enumerate(counts[:lost]):
        came.add(count, sum(counts[: number + 1]))
    with pytest.raises(BadFrame, match="were lost"):
        came.add(1, sum(counts[: lost + 1]) + 1)


@given(counts=st.lists(st.integers(1, 50), min_size=1))
def test_what_comes_twice_is_seen_at_once(counts: list[int]) -> None:
    """It has the sum of its first time."""
    came = Counted("outcomes")
    for number, count in enumerate(counts):
        came.add(count, sum(counts[: number + 1]))
    with pytest.raises(BadFrame, match="came twice"):
        came.add(counts[-1], sum(counts))


def test_each_frame_says_how_many_there_were() -> None:
    """On its own socket."""
    payloads = Payloads(lambda frame: None)
    first, second = payloads.packer(), payloads.packer()
    assert first.jobs([Drop(1), Drop(2)])[0].total == 2
    assert first.jobs([Drop(3)])[0].total == 3
    assert second.outcomes([Text(1, "a", [1])])[0].total == 1


def spoilt(anywhere: Anywhere, spoil: Callable[[Frame], list[Frame]]) -> None:
    """Have what comes from its process pass through `spoil` before anybody sees it."""
    engine: Any = anywhere.engine
    channel = engine._channel
    on_frame = channel._on_frame

    def spoiling(frame: Frame, descriptors: Any) -> None:
        for one in spoil(frame):
            on_frame(one, descriptors)

    channel._on_frame = spoiling


@pytest.mark.anyio
@pytest.mark.parametrize(("copies", "words"), [(0, "were lost"), (2, "came twice")])
async def test_an_outcome_that_does_not_come_once_ends_the_process(copies: int, words: str) -> None:
    """With the next one that comes; what came before it has counted, and nothing after it does."""
    with nothing_left():
        async with running(configuration("process")) as one:
            left = [3]  # outcomes frames that pass

            def spoil(frame: Frame) -> list[Frame]:
                if not isinstance(frame, Outcomes):
                    return [frame]
                left[0] -= 1
                return [frame] * (copies if left[0] == 0 else 1)

            spoilt(one, spoil)
            one.engine.submit(generate(1, range(5), max_new_tokens=50, stream=True))
            await one.until(ends(1))
            with anyio.fail_after(20):
                await one.engine.ended.wait()
            failure = one.engine.failure
            assert isinstance(failure, EngineDied)
            assert failure.report.reason == "killed"
            assert "outcomes of its engine" in failure.report.problem
            assert words in failure.report.problem
            assert isinstance(one.outcomes[-1], Died)
            assert left[0] <= 0


@pytest.mark.anyio
async def test_a_job_that_does_not_come_once_ends_the_process() -> None:
    """The child says why: it is in its last lines."""
    with nothing_left():
        async with running(configuration("process")) as one:
            engine: Any = one.engine
            engine._packer.jobs([Drop(0)])  # packed, and never sent
            one.engine.submit(Drop(1))
            with anyio.fail_after(20):
                await one.engine.ended.wait()
            failure = one.engine.failure
            assert isinstance(failure, EngineDied)
            assert any("jobs of an engine were lost: 2 were sent" in line for line in failure.report.log_lines)


def test_a_count_is_no_more_than_some_bytes() -> None:
    """Each token of a stream carries it."""
    jobs = Jobs([Drop(1)])
    assert len(encode(Jobs([Drop(1)], total=1 << 30))) - len(encode(jobs)) <= 12
