"""The thinking of a reply on the engine thread: told apart, counted and closed, however tokens cut its bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import pytest
from helpers.engine import generate
from helpers.worker import Bench, Scripted, bench, prompt
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.segments import Markers
from erllama_py.engine.jobs import EndThinking, Finished, Grant, Park, Report, Resume, Text
from erllama_py.engine.stub_logits import END

OPENS, CLOSES = "<think>", "</think>"
FIRST = 300  # the first token that a test makes
CLOSING = FIRST - 1  # the marker as one token
WORDS = st.text("aé日😀 \n", max_size=12)


class Thinker(Scripted):
    """Draws given tokens; what closes a block ends it in what it was to say, too."""

    def __init__(self, blocks: list[list[int]]) -> None:
        self.at, self.blocks = 0, [[*block] for block in blocks]
        super().__init__(self._next_draws())

    def _next_draws(self) -> Iterable[int]:
        while self.at < len(self.blocks):
            if self.blocks[self.at]:
                yield self.blocks[self.at].pop(0)
            else:
                self.at += 1
        while True:
            yield END

    def accept(self, tokens: Any) -> None:
        super().accept(tokens)
        if tokens[-1] == CLOSING:
            self.at += 1


def show_as(one: Bench, table: dict[int, bytes]) -> None:
    """Have tokens be these bytes."""
    vocabulary = one.backend.vocabulary
    own = vocabulary.token_bytes

    def token_bytes(token: int, *, special: bool) -> bytes:
        return table[token] if token in table else own(token, special=special)

    vocabulary.token_bytes = token_bytes  # type: ignore[method-assign]  # it stands before the stub's


class World:
    """A worker whose tokens are pieces of given texts."""

    def __init__(self) -> None:
        self.bench: Bench = bench(vocab_size=4096)
        self.table: dict[int, bytes] = {CLOSING: CLOSES.encode()}
        show_as(self.bench, self.table)

    def cut(self, text: str, sizes: Iterable[int]) -> list[int]:
        """The tokens of a text, whose bytes are cut into pieces of these sizes again and again."""
        data, sizes = text.encode(), [*sizes]
        tokens: list[int] = []
        while data:
            size = sizes[len(tokens) % len(sizes)]
            token = FIRST + len(self.table)
            self.table[token], data = data[:size], data[size:]
            tokens.append(token)
        return tokens

    def run(self, blocks: list[list[int]], *, markers: Markers, **fields: Any) -> Finished:
        sampler = Thinker(blocks)
        job = generate(1, prompt(1), **({"max_new_tokens": 400, "stream": True, "markers": markers} | fields))
        with patch.object(self.bench.backend, "sampler", lambda sampling, history: sampler):
            self.bench.do(job)
        self.bench.run()
        end = self.bench.ended(1)
        assert isinstance(end, Finished), end
        return end


def markers(begins: str = "text", budget: int | None = None, closing: tuple[int, ...] = (CLOSING,)) -> Markers:
    kind: Any = begins
    return Markers(thinking=(OPENS, CLOSES), begins=kind, closing=closing, budget=budget)


def of_kind(world: World, kind: str) -> str:
    """The text of all events of a kind."""
    return "".join(text.text for text in world.bench.of(Text) if text.kind == kind)


@given(
    said=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), sizes=st.lists(st.integers(1, 9), min_size=1),
    budget=st.none() | st.integers(0, 12), message=st.sampled_from(["", "… enough"]),
)  # fmt: skip
def test_thinking_and_text_never_mix(
    said: list[tuple[str, str]], sizes: list[int], budget: int | None, message: str
) -> None:
    """However tokens cut markers and characters, and wherever the budget ends."""
    world = World()
    blocks: list[list[int]] = []
    for thought, text in said:
        blocks += [world.cut(OPENS + thought + CLOSES, sizes), world.cut(text, sizes)]
    end = world.run(blocks, markers=markers(budget=budget, closing=(*world.cut(message, [3]), CLOSING)))
    thinking = end.thinking or ""
    assert of_kind(world, "text") == end.text
    assert of_kind(world, "thinking").replace("\n", "") == thinking.replace("\n", "")
    shown = [token for text in world.bench.of(Text) for token in text.token_ids]
    assert shown == end.token_ids[: len(shown)]  # those at the end may have no text
    assert not any(mark in end.text + thinking for mark in ("<", ">", "\ufffd"))
    assert _letters(end.text) == _letters("".join(text for _, text in said))
    if budget is None:
        assert _letters(thinking) == _letters("".join(thought for thought, _ in said))


def _letters(text: str) -> str:
    """Without the white space, which beside markers belongs to them."""
    return "".join(text.split())


@pytest.mark.parametrize("begins", ["text", "thinking"])
@pytest.mark.parametrize("budget", [0, 1, 5, 6, 7, 100])
def test_a_budget_is_counted_in_tokens(begins: str, budget: int) -> None:
    """Markers are not counted, nor what is written to close the block."""
    world = World()
    opener = world.cut(OPENS, [99]) if begins == "text" else []
    blocks = [[*opener, *world.cut("abcdef", [1]), CLOSING], world.cut("yes", [1])]
    message = world.cut("!", [1])
    end = world.run(blocks, markers=markers(begins, budget, (*message, CLOSING)))
    cut = budget <= 6
    assert end.thinking == "abcdef"[:budget] + "!" * cut
    assert end.text == "yes"
    assert len(end.token_ids) == len(opener) + min(budget, 6) + cut + 1 + 3
    assert end.reason == "stop"


def test_the_budget_is_that_of_the_whole_reply() -> None:
    """A block that is opened when it is spent is closed at once."""
    world = World()
    blocks = [[*world.cut(OPENS, [99]), *world.cut(thought, [1]), CLOSING] for thought in ("ab", "cdef", "gh")]
    end = world.run([*blocks, world.cut("yes", [3])], markers=markers(budget=4))
    assert (end.thinking, end.text) == ("ab\n\ncd", "yes")


def test_a_character_is_not_cut_in_two() -> None:
    """The block ends with the token that completes it."""
    for budget in range(1, 5):
        world = World()
        end = world.run([world.cut("😀日é", [1]), world.cut("yes", [9])], markers=markers("thinking", budget))
        assert (end.thinking, end.text) == ("😀", "yes")


def test_bytes_that_are_no_text_do_not_keep_the_block_open() -> None:
    """What never becomes a character is waited for only as long as one could take."""
    world = World()
    world.table[FIRST + 50] = b"\xf0"
    end = world.run([[FIRST + 50] * 40, world.cut("yes", [9])], markers=markers("thinking", 2))
    assert end.text == "yes"
    assert len(end.token_ids) < 20


def test_a_marker_that_the_model_has_begun_is_waited_for() -> None:
    """So that it does not stand there twice."""
    world = World()
    blocks = [world.cut("ab" + CLOSES, [1]), world.cut("yes", [9])]
    end = world.run(blocks, markers=markers("thinking", 5))
    assert (end.thinking, end.text) == ("ab", "yes")
    assert CLOSING not in end.token_ids


@pytest.mark.parametrize("most", range(1, 9))
def test_the_reply_has_no_more_tokens_than_it_may(most: int) -> None:
    """Those that close a block count; it may end in the middle of them."""
    world = World()
    closing = (*world.cut("so", [1]), CLOSING)
    end = world.run(
        [world.cut("abcdef", [1]), world.cut("yes", [1])], markers=markers("thinking", 2, closing), max_new_tokens=most
    )
    assert len(end.token_ids) == min(most, 8)
    assert end.thinking == "abso"[:most]
    assert end.text == "yes"[: max(0, most - 5)]


def test_an_end_token_ends_the_reply_in_its_thinking_too() -> None:
    """As the model means it; there is no text then."""
    world = World()
    end = world.run([[*world.cut("ab", [1]), END]], markers=markers("thinking", 5))
    assert (end.thinking, end.text, end.reason, end.stop_token_id) == ("ab", "", "stop", END)


def test_stop_sequences_are_for_text_alone() -> None:
    """What is thought may have them."""
    world = World()
    blocks = [world.cut("a STOP b" + CLOSES, [2]), world.cut("yes STOP no", [2])]
    end = world.run(blocks, markers=markers("thinking"), stop_sequences=("STOP",))
    assert (end.thinking, end.text, end.stop_sequence) == ("a STOP b", "yes ", "STOP")


def test_a_long_message_is_written_in_pieces() -> None:
    """No decode takes more than some of it at once."""
    world = World()
    message = world.cut("x" * 300, [1])
    end = world.run([world.cut("ab", [1]), world.cut("yes", [9])], markers=markers("thinking", 0, (*message, CLOSING)))
    assert (end.thinking, end.text) == ("x" * 300, "yes")
    assert max(count for decode in world.bench.decodes for _, count in decode) <= 64


@pytest.mark.parametrize("times", [1, 2])
def test_a_block_is_closed_when_asked(times: int) -> None:
    """With the next token, once; the next block goes on as it likes."""
    world = World()
    blocks = [world.cut("abcdef", [1]), world.cut("yes" + OPENS + "more" + CLOSES, [1]), world.cut("no", [9])]
    sampler = Thinker(blocks)
    job = generate(1, prompt(1), max_new_tokens=400, stream=True, markers=markers("thinking"))
    with patch.object(world.bench.backend, "sampler", lambda sampling, history: sampler):
        world.bench.do(job)
    world.bench.tick(3)
    world.bench.do(*[EndThinking(1)] * times)
    world.bench.run()
    world.bench.do(EndThinking(1), EndThinking(2))  # it is over, or was never there
    end = world.bench.ended(1)
    assert isinstance(end, Finished)
    assert (end.thinking, end.text) == ("abc\n\nmore", "yesno")


def test_outside_a_block_there_is_nothing_to_close() -> None:
    """The one that comes later is not meant."""
    world = World()
    sampler = Thinker([world.cut("yes" + OPENS + "more" + CLOSES, [1]), world.cut("no", [9])])
    with patch.object(world.bench.backend, "sampler", lambda sampling, history: sampler):
        world.bench.do(generate(1, prompt(1), max_new_tokens=400, stream=True, markers=markers()))
    world.bench.tick(2)
    world.bench.do(EndThinking(1))
    world.bench.run()
    end = world.bench.ended(1)
    assert isinstance(end, Finished)
    assert (end.thinking, end.text) == ("more", "yesno")


@pytest.mark.parametrize("after", range(1, 8))
def test_a_parked_request_closes_its_block_where_it_was(after: int) -> None:
    """Also one that was parked in the middle of what is written, or asked meanwhile."""
    expected: Finished | None = None
    for parks in (False, True):
        world = World()
        closing = (*world.cut("x" * 70, [1]), CLOSING)
        sampler = Thinker([world.cut("abcdef", [1]), world.cut("yes", [1])])
        with patch.object(world.bench.backend, "sampler", lambda sampling, history, one=sampler: one):
            world.bench.do(generate(1, prompt(1), max_new_tokens=400, markers=markers("thinking", 2, closing)))
        world.bench.tick(after)
        if parks:
            world.bench.do(Park(1))
            world.bench.tick(3)
            world.bench.do(EndThinking(1), Resume(request_id=1, seq_id=1, keep=0, limit=1 << 30), Grant(1, 1 << 30))
        world.bench.run()
        end = world.bench.ended(1)
        assert isinstance(end, Finished)
        if expected is None:
            expected = end
        elif after > 2:
            assert (end.thinking, end.text, end.token_ids) == (expected.thinking, expected.text, expected.token_ids)
        assert end.text == "yes"


def test_written_tokens_have_log_probabilities_of_their_own() -> None:
    """They are then written one by one, each after a decode, so that there is a row of logits for it."""
    one = bench()
    closing = (*b"so", CLOSING)
    job = generate(
        1, prompt(1), max_new_tokens=9, markers=markers("thinking", 2, closing), report=Report(logprobs=2)
    )  # fmt: skip
    show_as(one, {CLOSING: CLOSES.encode()})
    one.do(job)
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert end.token_ids[2:5] == [*closing]
    assert end.logprobs is not None
    assert [logprob.token_id for logprob in end.logprobs] == end.token_ids
    assert all(logprob.logprob < -1.0 for logprob in end.logprobs[2:5])
