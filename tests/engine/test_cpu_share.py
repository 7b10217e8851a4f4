"""CPUs shared by the engines of a process: laws of the shares, and seats that come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.compute_threads import CpuShare, Seat, share_out


def choice(most: int, fixed: bool = False, cpus: int = 1) -> ThreadChoice:
    """What an engine could use."""
    return ThreadChoice(few=most, many=most, fixed_few=fixed, fixed_many=fixed, cpus=cpus)


choices = st.lists(
    st.builds(choice, st.integers(1, 16), st.booleans(), st.integers(1, 64)), max_size=12
)  # fmt: skip


@given(choices)
def test_shares_keep_their_bounds(asked: list[ThreadChoice]) -> None:
    """Fixed ones get their number; no other more than it can use, or less than one; together no more than there is."""
    granted = share_out(asked)
    assert len(granted) == len(asked)
    for one, threads in zip(asked, granted, strict=True):
        assert threads == one.most if one.is_fixed else 1 <= threads <= one.most
    cpus = max((one.cpus for one in asked), default=0)
    free = [threads for one, threads in zip(asked, granted, strict=True) if not one.is_fixed]
    left = cpus - sum(one.most for one in asked if one.is_fixed)
    assert sum(free) <= max(left, len(free))


@given(choices)
def test_no_cpu_is_left_that_an_engine_could_use(asked: list[ThreadChoice]) -> None:
    """CPUs stay free only where all have what they can use."""
    granted = share_out(asked)
    wants = any(not one.is_fixed and threads < one.most for one, threads in zip(asked, granted, strict=True))
    if wants:
        assert sum(granted) >= max(one.cpus for one in asked)


@given(choices)
def test_equals_get_the_same_but_for_what_cannot_be_divided(asked: list[ThreadChoice]) -> None:
    """Whoever has less by more than one has all that it can use."""
    granted = share_out(asked)
    for one, mine in zip(asked, granted, strict=True):
        for other, theirs in zip(asked, granted, strict=True):
            if not one.is_fixed and not other.is_fixed and mine < theirs - 1:
                assert mine == one.most


def test_seats_come_and_go() -> None:
    """An engine that decodes alone has all; a second one takes half of it, for as long as it decodes."""
    share, first, second = CpuShare(), Seat(choice(8, cpus=8)), Seat(choice(8, cpus=8))
    assert first.granted == 8
    share.take(first)
    share.take(first)
    assert first.granted == 8
    share.take(second)
    assert (first.granted, second.granted) == (4, 4)
    share.leave(second)
    share.leave(second)
    assert first.granted == 8
    assert repr(share) == "<CpuShare [8]>"
