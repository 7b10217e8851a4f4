"""Where rows end and which are worth reading: the laws for any prompt and any gates, and tables of cases."""

from __future__ import annotations

import itertools

import pytest
from helpers.rows import meta
from hypothesis import assume, given
from hypothesis import strategies as st

from erllama_py.cache.messages import RowMeta
from erllama_py.cache.policy import (
    LEAST_ROW_TOKENS,
    STATE_BYTES_PER_TOKEN,
    TOKENS_IF_UNKNOWN,
    grid_stride,
    is_worth,
    least_opening,
    prompt_ends,
    read_seconds,
    row_start,
    token_seconds,
    turn_ends,
)
from erllama_py.options.policy import PolicyOpts, parse_policy

lengths = st.integers(1, 3000)
gates = st.none() | st.integers(0, 2000)
anchor_lists = st.lists(st.integers(1, 3000), max_size=4)


@st.composite
def policies(draw: st.DrawFn) -> PolicyOpts:
    """Gates that the door lets in."""
    least = draw(gates)
    cold = draw(st.none() | st.integers(least or 0, 2000))
    most = draw(st.none() | st.integers(cold or least or 0, 4000))
    return parse_policy({
        "min_tokens": least, "cold_min_tokens": cold, "cold_max_tokens": most,
        "boundary_trim_tokens": draw(st.integers(0, 300)), "boundary_align_tokens": draw(st.integers(1, 600)),
    })  # fmt: skip


@given(policies(), st.integers(0, 1 << 30))
def test_the_grid_is_the_finest_that_its_states_can_afford(policy: PolicyOpts, state_bytes: int) -> None:
    """A multiple of the alignment; one step finer and a state would cost more for each token than it may."""
    stride, align = grid_stride(policy, state_bytes), policy.boundary_align_tokens
    assert stride % align == 0
    assert state_bytes <= stride * STATE_BYTES_PER_TOKEN
    assert stride == align or state_bytes > (stride - align) * STATE_BYTES_PER_TOKEN


@given(lengths, policies(), anchor_lists, st.integers(1, 1200), st.booleans())
def test_ends_ascend_within_the_prompt(
    n_tokens: int, policy: PolicyOpts, anchors: list[int], stride: int, whole: bool
) -> None:
    """None twice, none beyond the prompt, none shorter than what is saved at all, and the prompt's end where due."""
    ends = prompt_ends(n_tokens, policy, anchors, stride=stride, last=(n_tokens,) * whole)
    assert list(ends) == sorted(set(ends))
    least = policy.min_tokens
    assert least is not None or not ends
    assert all(max(1, least or 0) <= end <= n_tokens for end in ends)
    by_grid = n_tokens % stride == 0 == policy.boundary_trim_tokens
    assert not ends or (n_tokens in ends) == (whole or n_tokens in anchors or by_grid)


@given(lengths, policies(), anchor_lists, st.integers(1, 1200), st.booleans())
def test_each_end_is_on_the_grid_or_is_a_fixed_one(
    n_tokens: int, policy: PolicyOpts, anchors: list[int], stride: int, whole: bool
) -> None:
    """So that prompts with a common beginning share rows; what is trimmed off has no end on the grid."""
    for end in prompt_ends(n_tokens, policy, anchors, stride=stride, last=(n_tokens,) * whole):
        on_grid = end % stride == 0 and end <= n_tokens - policy.boundary_trim_tokens
        assert on_grid or end in anchors or (end == n_tokens and whole)


@given(lengths, policies(), anchor_lists, st.integers(LEAST_ROW_TOKENS, 1200), st.booleans())
def test_rows_are_long_enough_to_be_worth_storing(
    n_tokens: int, policy: PolicyOpts, anchors: list[int], stride: int, whole: bool
) -> None:
    """Only two fixed ends may be closer: anchors, and the end of the prompt."""
    ends = prompt_ends(n_tokens, policy, anchors, stride=stride, last=(n_tokens,) * whole)
    fixed = {*anchors, n_tokens}
    for one, other in itertools.pairwise(ends):
        assert other - one >= LEAST_ROW_TOKENS or {one, other} <= fixed


@given(lengths, policies(), anchor_lists, st.integers(1, 1200), st.booleans())
def test_all_of_the_gates_hold(n_tokens: int, policy: PolicyOpts, anchors: list[int], stride: int, whole: bool) -> None:
    """Nothing of a prompt that is too short or too long; every anchor of one that is not."""
    ends = prompt_ends(n_tokens, policy, anchors, stride=stride, last=(n_tokens,) * whole)
    least = policy.min_tokens
    most = n_tokens if policy.cold_max_tokens is None else policy.cold_max_tokens
    if least is None or not max(least, policy.cold_min_tokens or 0) <= n_tokens <= most:
        assert ends == ()
    else:
        assert {anchor for anchor in anchors if least <= anchor <= n_tokens} <= set(ends)


@given(policies(), st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_prompts_with_a_common_beginning_have_common_ends(
    policy: PolicyOpts, shorter: int, longer: int, stride: int
) -> None:
    """The grid is absolute: what follows does not move it."""
    assume(shorter <= longer)
    short = prompt_ends(shorter, policy, (), stride=stride, last=())
    long = prompt_ends(longer, policy, (), stride=stride, last=())
    assert not (short and long) or long[: len(short)] == short


def gated(**gates: int | None) -> PolicyOpts:
    """A grid of 256, nothing shorter, and 32 tokens off the end, where nothing else is said."""
    usual: dict[str, int | None] = {"min_tokens": 256, "boundary_trim_tokens": 32, "boundary_align_tokens": 256}
    return parse_policy({**usual, **gates})


NOTHING: tuple[int, ...] = ()
CASES: list[tuple[str, int, PolicyOpts, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
    ("every 256 tokens", 1000, gated(), (), (), (256, 512, 768)),
    ("the trim is off before the last end", 800, gated(), (), (), (256, 512, 768)),
    ("one token less and the last end is trimmed", 799, gated(), (), (), (256, 512)),
    ("too short for a row", 255, gated(), (), (), NOTHING),
    ("long enough, but for the trim", 256, gated(), (), (), NOTHING),
    ("a row ends with the prompt", 300, gated(), (), (300,), (256, 300)),
    ("a grid end 32 tokens before it stays", 800, gated(boundary_trim_tokens=0), (), (800,), (256, 512, 768, 800)),
    ("one that is nearer does not", 799, gated(boundary_trim_tokens=0), (), (799,), (256, 512, 799)),
    ("an anchor", 1000, gated(), (400,), (), (256, 400, 512, 768)),
    ("an anchor takes the place of grid ends near it", 1000, gated(), (270, 530), (), (270, 530, 768)),
    ("an anchor that is too early", 1000, gated(), (100,), (), (256, 512, 768)),
    ("an anchor in the trimmed part", 1000, gated(), (990,), (), (256, 512, 768, 990)),
    ("one beyond the end is none", 1000, gated(), (1000, 1200), (), (256, 512, 768, 1000)),
    ("where the next turn diverges", 1000, gated(), (), (400, 990), (256, 400, 512, 768, 990)),
    ("which takes the place of grid ends near it", 800, gated(), (), (790,), (256, 512, 790)),
    ("or with the prompt, where that is too early", 260, gated(), (), (250,), (260,)),
    ("two anchors may be close", 600, gated(), (300, 310), (), (256, 300, 310, 512)),
    ("nothing is saved", 1000, gated(min_tokens=None), (300,), (1000,), NOTHING),
    ("the least length is that of a prefix", 1000, gated(min_tokens=600), (500, 700), (), (700, 768)),
    ("and that of a prompt can be more", 1000, gated(cold_min_tokens=1001), (), (), NOTHING),
    ("exactly as much", 1000, gated(cold_min_tokens=1000), (), (), (256, 512, 768)),
    ("the most that is saved", 1000, gated(cold_max_tokens=1000), (), (), (256, 512, 768)),
    ("is not less than the prompt", 1000, gated(cold_max_tokens=999), (300,), (1000,), NOTHING),
    ("no least length at all", 300, gated(min_tokens=0), (5,), (), (5, 256)),
]  # fmt: skip


@given(lengths, st.sets(st.integers(1, 3000), max_size=6), st.integers(0, 40))
def test_a_prompt_ends_where_its_next_turns_diverge(n_tokens: int, places: set[int], least: int) -> None:
    """At all places but those among its last tokens that are too close to another; never without one of these."""
    places = {place for place in places if place <= n_tokens}
    ends, late = turn_ends(n_tokens, sorted(places), least=least), n_tokens - LEAST_ROW_TOKENS
    near = {place for place in places if place > late} or {n_tokens}
    mine = [end for end in ends if end > late]
    assert list(ends) == sorted(set(ends))
    assert [end for end in ends if end <= late] == sorted(places - near)
    assert mine[0] == min(near)
    assert set(mine) <= near
    assert all(later - end > least for end, later in itertools.pairwise(mine))
    assert all(any(end <= place <= end + least for end in mine) for place in near)


@pytest.mark.parametrize(
    ("state_bytes", "cuttable", "ends"),
    [
        (0, True, (96,)), (0, False, (96, 98, 100)), (16 << 10, False, (96, 98, 100)),
        (3 * STATE_BYTES_PER_TOKEN, False, (96, 100)), (20 << 20, False, (96,)),
    ],
)  # fmt: skip
def test_what_opens_a_reply_has_a_row_where_a_state_is_small(
    state_bytes: int, cuttable: bool, ends: tuple[int, ...]
) -> None:
    """Four tokens that would else be computed again, where the row before them cannot be cut back."""
    assert turn_ends(100, (96, 98, 100), least=least_opening(state_bytes, cuttable=cuttable)) == ends


@pytest.mark.parametrize(
    ("n_tokens", "policy", "anchors", "last", "ends"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_rows_end_here(
    n_tokens: int, policy: PolicyOpts, anchors: tuple[int, ...], last: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    """A table: what each gate does, on a grid of 256."""
    assert prompt_ends(n_tokens, policy, anchors, stride=256, last=last) == ends


@pytest.mark.parametrize(
    ("state_bytes", "align", "stride"),
    [
        (0, 256, 256),
        (16 << 20, 256, 256),
        ((16 << 20) + 1, 256, 512),
        (100 << 20, 256, 1792),
        (1 << 20, 10, 20),
        (1, 1, 1),
    ],
)
def test_a_large_state_widens_the_grid(state_bytes: int, align: int, stride: int) -> None:
    """64 KiB for each token: 16 MiB for 256."""
    assert grid_stride(parse_policy({"boundary_align_tokens": align}), state_bytes) == stride


tokens = st.integers(1, 1 << 17)
seconds = st.floats(1e-7, 1.0)
sizes = st.integers(0, 1 << 36)


@given(tokens, tokens, seconds, sizes)
def test_more_tokens_are_never_worth_less(few: int, more: int, each: float, nbytes: int) -> None:
    """Of the same rows."""
    assert is_worth(few + more, each, nbytes) >= is_worth(few, each, nbytes)


@given(tokens, seconds, seconds, sizes)
def test_dearer_tokens_are_never_worth_less(count: int, cheap: float, more: float, nbytes: int) -> None:
    """Those of a larger model, or a slower machine."""
    assert is_worth(count, cheap + more, nbytes) >= is_worth(count, cheap, nbytes)


@given(tokens, seconds, sizes, sizes)
def test_more_bytes_are_never_worth_more(count: int, each: float, nbytes: int, more: int) -> None:
    """They take longer."""
    assert is_worth(count, each, nbytes + more) <= is_worth(count, each, nbytes)


@given(tokens, sizes)
def test_where_the_cost_of_tokens_is_unknown_their_number_decides(count: int, nbytes: int) -> None:
    """An application may have put the rows there, and said nothing."""
    assert is_worth(count, 0.0, nbytes) == (count >= TOKENS_IF_UNKNOWN)


# what it is, seconds a token, bytes of a row of 256 tokens, how many tokens make it worth reading
MODELS = [
    ("SmolLM2 on two CPUs", 0.0035, 5_900_000, 1),
    ("Gemma 3 270M on two CPUs", 0.0025, 4_700_000, 2),
    ("8 billion parameters on an H200", 0.0001, 33_500_000, 171),
    ("random weights, 64 wide, on one CPU", 0.00017, 130_000, 3),
    ("a stub", 0.000001, 3_000, 16),
]


@pytest.mark.parametrize(("each", "nbytes", "least"), [row[1:] for row in MODELS], ids=[row[0] for row in MODELS])
def test_known_models_read_a_row_for_so_many_tokens(each: float, nbytes: int, least: int) -> None:
    """A last token on a CPU; most of a row where a token takes a tenth of a millisecond."""
    assert next(count for count in range(1, 257) if is_worth(count, each, nbytes)) == least


def test_the_seconds_a_token_are_those_of_all_rows_together() -> None:
    """And none where there is nothing."""
    story = list(range(100))
    rows = [meta(story, 0, 20, prefill_seconds=2.0), meta(story, 20, 100, prefill_seconds=3.0)]
    assert token_seconds(rows) == 0.05
    assert token_seconds([]) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(1e-6, 10.0)), max_size=5),
    st.lists(st.tuples(st.integers(1, 10_000), st.sampled_from([0.0, -1.0])), max_size=5),
)
def test_rows_of_unknown_cost_make_no_others_cheaper(
    known: list[tuple[int, float]], unknown: list[tuple[int, float]]
) -> None:
    """Those that an application has put before the model's own: that their time is unknown does not mean that they took
    none."""

    def rows(spans: list[tuple[int, float]]) -> list[RowMeta]:
        return [meta(list(range(tokens)), 0, tokens, prefill_seconds=seconds) for tokens, seconds in spans]

    assert token_seconds([*rows(unknown), *rows(known)]) == token_seconds(rows(known))


@given(st.lists(st.floats(-10, 1000), min_size=1, max_size=20))
def test_a_row_is_waited_for_no_longer_than_it_and_what_follows_took_to_compute(seconds: list[float]) -> None:
    """Within bounds; never longer than for the row before it."""
    metas = [meta(list(range(40)), end, end + 1, prefill_seconds=one) for end, one in enumerate(seconds)]
    limits = read_seconds(metas)
    assert len(limits) == len(metas)
    assert limits == sorted(limits, reverse=True)
    for place, limit in enumerate(limits):
        computing = sum(max(0.0, one) for one in seconds[place:])
        assert limit == pytest.approx(min(60.0, max(2.0, computing)))


chains = st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=20)


@given(chains, st.lists(st.integers(1, 3000), max_size=6), st.integers(1, 600))
def test_a_row_begins_where_one_ends_that_stays(spans: list[tuple[int, bool]], more: list[int], apart: int) -> None:
    """None of the prompt's own ends is taken in, nor is a row of `apart` tokens; and it is never more than two of
    those and a row."""
    saved, own, end = {0: 0}, set(more), 0
    for length, is_own in spans:
        saved[end + length] = end
        end += length
        own |= {end} if is_own else set()
    start = row_start(saved, sorted(own), apart=apart)
    assert start in saved
    if not own:
        assert start == end
        return
    taken = [one for one in saved if one > start]
    assert not own & set(taken)
    assert all(one - start < 2 * apart for one in taken)
    assert not any(saved[one] == start and one - start >= apart for one in taken)


def test_a_chat_keeps_a_state_for_each_stride() -> None:
    """Turn after turn, as what is replaced goes: the ends that are left are a stride apart, but for the last ones."""
    saved, system = {0: 0, 100: 0}, 100
    for turn in range(1, 40):
        message, prompt = 100 + 50 * turn - 20, 100 + 50 * turn
        start = row_start(saved, [system, message, prompt], apart=256)
        saved = {end: begin for end, begin in saved.items() if end <= start}
        saved |= {message: start, prompt: message}
    ends = sorted(saved)
    assert all(after - before >= 256 for before, after in itertools.pairwise(ends[1:-2]))
    assert len(ends) <= 4 + ends[-1] // 256
