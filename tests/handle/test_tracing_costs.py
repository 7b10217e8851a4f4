"""What spans cost: nothing at a token, and next to nothing where a request is not sampled."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

import pytest
from helpers.runtime import stub_runtime
from helpers.traces import provider_of, traced
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF


@pytest.mark.anyio
async def test_what_is_not_sampled_costs_no_phases() -> None:
    """Its span records nothing."""
    with traced(ALWAYS_OFF) as spans:
        async with stub_runtime() as (_, model):
            await model.complete("hello " * 80, response_tokens=2)
    assert spans.all() == []


def _calls_of_tracing(counts: Counter[str]) -> Callable[[FrameType, str, object], None]:
    def profile(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and any(part in name for part in ("opentelemetry", "/tracing.py", "/watch/")):
            counts[name] += 1

    return profile


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("recording", [False, True])
async def test_nothing_is_done_at_a_token(recording: bool) -> None:
    """A reply of 200 tokens calls as many functions of tracing on the loop as one of 5: those of its begin and end."""

    async def counted(tokens: int) -> int:
        counts: Counter[str] = Counter()
        async with stub_runtime() as (_, model):
            sys.setprofile(_calls_of_tracing(counts))
            try:
                async with model.stream("hello", response_tokens=tokens, ignore_eos=True) as events:
                    assert len([event async for event in events]) > tokens / 2
            finally:
                sys.setprofile(None)
        return counts.total()

    with traced() if recording else provider_of(None):
        await counted(5)  # the first one asks the provider for a tracer
        few, many = await counted(5), await counted(200)
    assert abs(many - few) < 195  # one call a token more
    assert recording or (few, many) == (3, 3)
