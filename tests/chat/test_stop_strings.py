"""Stop sequences in chunks: the same text and the same match as if the text had come in one piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.assemble import StopMatcher

# Two letters, so that stop sequences overlap, nest and repeat within short texts.
texts = st.text("ab", max_size=12)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)
chunk_lists = st.lists(texts, max_size=8)


def in_one_piece(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The text before the first place where a stop sequence begins, and the shortest that begins there."""
    for start in range(len(text)):
        here = sorted((stop for stop in stops if text.startswith(stop, start)), key=len)
        if here:
            return text[:start], here[0]
    return text, None


def fed(matcher: StopMatcher, chunks: list[str]) -> list[str]:
    """What came out for each chunk, and for the flush."""
    return [matcher.feed(chunk) for chunk in chunks] + [matcher.flush()]


@given(chunk_lists, stop_lists)
def test_where_the_chunks_part_changes_nothing(chunks: list[str], stops: list[str]) -> None:
    """Text and match are those of the whole text searched at once."""
    matcher = StopMatcher(stops)
    emitted = "".join(fed(matcher, chunks))
    assert (emitted, matcher.matched) == in_one_piece("".join(chunks), stops)


@given(chunk_lists, stop_lists)
def test_no_more_is_held_back_than_the_longest_stop_sequence_less_one(chunks: list[str], stops: list[str]) -> None:
    """As long as nothing matched, what came in and did not come out is shorter than the longest stop sequence."""
    matcher, received, emitted = StopMatcher(stops), "", ""
    longest = max(map(len, stops), default=1)
    for chunk in chunks:
        received += chunk
        emitted += matcher.feed(chunk)
        if matcher.matched is None:
            assert received.startswith(emitted)
            assert len(received) - len(emitted) <= longest - 1


@given(chunk_lists, stop_lists)
def test_text_that_can_begin_no_stop_sequence_is_not_held_back(chunks: list[str], stops: list[str]) -> None:
    """What is held back is always the beginning of a stop sequence."""
    matcher, received, emitted = StopMatcher(stops), "", ""
    for chunk in chunks:
        received += chunk
        emitted += matcher.feed(chunk)
        held = received[len(emitted) :]
        assert matcher.matched is not None or not held or any(stop.startswith(held) for stop in stops)


def test_without_stop_sequences_text_passes_at_once() -> None:
    """Nothing is held back and nothing matches."""
    matcher = StopMatcher(())
    assert fed(matcher, ["a", "", "b"]) == ["a", "", "b", ""]
    assert matcher.matched is None


@pytest.mark.parametrize("stops", [["stop", "st"], ["st", "stop"]])
def test_of_two_that_begin_at_one_place_the_shortest_wins(stops: list[str]) -> None:
    """The order in which they were given does not matter."""
    matcher = StopMatcher(stops)
    assert fed(matcher, ["a stop"]) == ["a ", ""]
    assert matcher.matched == "st"


def test_the_one_that_begins_first_wins_though_it_ends_last() -> None:
    """A whole stop sequence waits while a longer one that began before it is still possible."""
    matcher = StopMatcher(["cd", "abcdef"])
    assert [matcher.feed(chunk) for chunk in ("x", "abcd", "e", "f")] == ["x", "", "", ""]
    assert matcher.matched == "abcdef"


def test_a_stop_sequence_that_waited_matches_once_the_longer_one_fails() -> None:
    """The text up to the shorter one is then due."""
    matcher = StopMatcher(["cd", "abcdef"])
    assert [matcher.feed(chunk) for chunk in ("abcd", "!")] == ["", "ab"]
    assert matcher.matched == "cd"


def test_a_stop_sequence_that_waited_matches_at_the_end_of_the_text() -> None:
    """The flush decides what no more text will."""
    matcher = StopMatcher(["cd", "abcdef"])
    assert fed(matcher, ["abcd"]) == ["", "ab"]
    assert matcher.matched == "cd"


def test_after_a_match_nothing_comes_any_more() -> None:
    """Neither later text nor the flush adds to what was emitted, and the match stays the first one."""
    matcher = StopMatcher(["\n", "END"])
    assert fed(matcher, ["one\ntwo", "END", "three"]) == ["one", "", "", ""]
    assert matcher.matched == "\n"


def test_a_beginning_that_is_not_completed_is_text() -> None:
    """It comes out with the character that rules the stop sequence out, or with the flush."""
    matcher = StopMatcher(["</s>"])
    assert fed(matcher, ["a<", "/", "p></"]) == ["a", "", "</p>", "</"]
    assert matcher.matched is None
