"""Which tokens go into a decode: the laws of `plan_tick`, for any needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.tick_plan import Need, plan_tick, slice_length

needs = st.lists(
    st.one_of(
        st.builds(Need, st.integers(0, 4000), st.just(1), st.just(True)),
        st.builds(Need, st.integers(0, 4000), st.integers(1, 4000), st.just(False)),
    ),
    max_size=12,
)
batches = st.integers(1, 2048)


@given(needs, batches, batches)
def test_a_decode_never_takes_more_than_n_batch(wanted: list[Need], n_batch: int, n_ubatch: int) -> None:
    """The tokens of all portions together fit into one decode."""
    assert sum(portion.tokens for portion in plan_tick(wanted, n_batch, n_ubatch)) <= n_batch


@given(needs, batches, batches)
def test_something_is_planned_whenever_something_is_needed(wanted: list[Need], n_batch: int, n_ubatch: int) -> None:
    """No tick is idle while a sequence has tokens to decode."""
    assert bool(plan_tick(wanted, n_batch, n_ubatch)) == bool(wanted)


@given(needs, batches, batches)
def test_each_sequence_gets_one_portion_of_what_it_needs(wanted: list[Need], n_batch: int, n_ubatch: int) -> None:
    """Portions name different sequences, are not empty and never exceed the need."""
    portions = plan_tick(wanted, n_batch, n_ubatch)
    assert len({portion.index for portion in portions}) == len(portions)
    assert all(1 <= portion.tokens <= wanted[portion.index].tokens for portion in portions)


@given(needs, batches, batches)
def test_decode_rows_come_before_prefill(wanted: list[Need], n_batch: int, n_ubatch: int) -> None:
    """A prompt gets room only when every decode row has its own."""
    planned = {portion.index for portion in plan_tick(wanted, n_batch, n_ubatch)}
    rows = {index for index, need in enumerate(wanted) if need.decoding}
    if planned - rows:
        assert rows <= planned


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.integers(1, 8), st.integers(1, 512))
def test_a_prompt_alone_is_cut_on_the_absolute_grid(position: int, tokens: int, blocks: int, grid: int) -> None:
    """With a whole batch to itself every slice but the last ends on a multiple of the micro-batch."""
    length = slice_length(position, tokens, blocks * grid, grid)
    assert length == tokens or (position + length) % grid == 0


def test_a_prefix_is_cut_alike_cold_and_after_a_reuse() -> None:
    """From 0 and from 700 the cuts at and after 1024 are the same."""

    def cuts(position: int) -> list[int]:
        ends = []
        while position < 2900:
            position += slice_length(position, 2900 - position, 512, 512)
            ends.append(position)
        return ends

    assert cuts(0) == [512, 1024, 1536, 2048, 2560, 2900]
    assert cuts(700) == [1024, 1536, 2048, 2560, 2900]
