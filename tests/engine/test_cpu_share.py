"""CPUs shared by the engines of a process: laws of the shares, and seats that come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.cpu_share import Claim, CpuShare, Seat, share_out

claims = st.lists(
    st.builds(Claim, st.integers(1, 16), st.booleans(), st.integers(1, 64)), max_size=12
)  # fmt: skip


@given(claims)
def test_shares_keep_their_bounds(asked: list[Claim]) -> None:
    """The fixed get theirs; nobody else more than it can use, or less than one; together no more than there is."""
    granted = share_out(asked)
    assert len(granted) == len(asked)
    for claim, threads in zip(asked, granted, strict=True):
        assert threads == claim.most if claim.fixed else 1 <= threads <= claim.most
    cpus = max((claim.cpus for claim in asked), default=0)
    free = [threads for claim, threads in zip(asked, granted, strict=True) if not claim.fixed]
    left = cpus - sum(claim.most for claim in asked if claim.fixed)
    assert sum(free) <= max(left, len(free))


@given(claims)
def test_nothing_is_left_that_somebody_could_use(asked: list[Claim]) -> None:
    """CPUs stay free only where all have what they can use."""
    granted = share_out(asked)
    wants = any(not claim.fixed and threads < claim.most for claim, threads in zip(asked, granted, strict=True))
    if wants:
        assert sum(granted) >= max(claim.cpus for claim in asked)


@given(claims)
def test_equals_get_the_same_but_for_what_cannot_be_divided(asked: list[Claim]) -> None:
    """Whoever has less by more than one has all that it can use."""
    granted = share_out(asked)
    for one, mine in zip(asked, granted, strict=True):
        for other, theirs in zip(asked, granted, strict=True):
            if not one.fixed and not other.fixed and mine < theirs - 1:
                assert mine == one.most


def test_seats_come_and_go() -> None:
    """Who decodes alone has all; a second one takes half of it, for as long as it decodes."""
    share, first, second = CpuShare(), Seat(Claim(8, cpus=8)), Seat(Claim(8, cpus=8))
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
