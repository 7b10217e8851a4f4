"""A reply in segments: text, thinking and calls, however it is cut into chunks."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.assemble import SegmentAssembler
from erllama_py.chat.segments import Markers, Piece, Segmenter, calls_of, joined, text_of, thinking_of

MARKERS = Markers(thinking=("<think>", "</think>"), calls=("<call>",), call_end="</call>", dropped=("<|x|>",))
BARE = Markers(calls_at_start=('{"name":', "["))
QUOTED = Markers(calls=("<call>",), call_end="</call>", call_quotes="\"'")
STARTS = Markers(calls=(">>>f\n",), calls_at_start=("f\n",), dropped_at_start=("all\n",))
CASES: list[tuple[Markers, str, str, str | None, tuple[str, ...]]] = [
    (MARKERS, "Hello", "Hello", None, ()),
    (MARKERS, " Hello \n", " Hello \n", None, ()),
    (MARKERS, "<think>\nhm\n</think>\n\nHello", "Hello", "hm", ()),
    (MARKERS, "<think></think>Hello", "Hello", "", ()),
    (MARKERS, "<think>never ends ", "", "never ends", ()),
    (MARKERS, "a <call>{1}</call> b", "ab", None, ("<call>{1}</call>",)),
    (MARKERS, "<call>1</call>\n<call>2</call>", "", None, ("<call>1</call>", "<call>2</call>")),
    (MARKERS, "<call>cut", "", None, ("<call>cut",)),
    (MARKERS, "a <thin", "a <thin", None, ()),
    (MARKERS, "</think> is text here", "</think> is text here", None, ()),
    (MARKERS, "<think>a <call> in it</think>b", "b", "a <call> in it", ()),
    (MARKERS, "<think>a</think><think>b</think>c", "c", "a\n\nb", ()),
    (MARKERS, "<|x|>a<|x|>b", "ab", None, ()),
    (Markers(thinking=("<t>", "</t>"), begins="thinking"), "\nhm</t>\nHello", "Hello", "hm", ()),
    (Markers(calls=("[CALLS]",)), "So [CALLS][1] more", "So", None, ("[CALLS][1] more",)),
    (BARE, ' {"name": 1}', "", None, ('{"name": 1}',)),
    (BARE, 'a {"name": 1}', 'a {"name": 1}', None, ()),
    (BARE, '{"nam', '{"nam', None, ()),
    (BARE, "", "", None, ()),
    (QUOTED, '<call>"</call>\\"</call>"</call>a', "a", None, ('<call>"</call>\\"</call>"</call>',)),
    (QUOTED, "<call>'it\\'s </call>', \"'</call>\"</call>", "", None, ("<call>'it\\'s </call>', \"'</call>\"</call>",)),
    (QUOTED, '<call>"torn\n</call>a', "a", None, ('<call>"torn\n</call>',)),
    (QUOTED, '<call>"</call>', "", None, ('<call>"</call>',)),
    (Markers(thinking=("<t>", "</t>"), begins="thinking", calls_at_start=("[",)), "a</t>\n[1]", "", "a", ("[1]",)),
    (STARTS, "all\nHi all\n", "Hi all\n", None, ()),
    (STARTS, "f\n{}", "", None, ("f\n{}",)),
    (STARTS, "all\nHi\n>>>f\n{}", "Hi", None, (">>>f\n{}",)),
]


def read(markers: Markers, chunks: list[str]) -> list[Piece]:
    segmenter = Segmenter(markers)
    pieces = [piece for chunk in chunks for piece in segmenter.feed(chunk)]
    return joined([*pieces, *segmenter.flush()])


def test_segments_are_told_apart() -> None:
    """The table of replies above: text, thinking, calls."""
    for markers, reply, text, thinking, calls in CASES:
        pieces = read(markers, [reply])
        assert (text_of(pieces), thinking_of(pieces), calls_of(pieces)) == (text, thinking, calls), reply


PARTS = [
    "<think>",
    "</think>",
    "<call>",
    "</call>",
    "<|x|>",
    "<",
    "think>",
    "</",
    "Z",
    " ",
    "\n",
    "[",
    '{"name":',
    '"',
    "'",
    "\\",
    "all\n",
    "f\n",
]


@given(
    st.lists(st.sampled_from(PARTS), max_size=12),
    st.lists(st.integers(0, 60), max_size=8),
    st.sampled_from((MARKERS, BARE, QUOTED, STARTS)),
)
def test_chunks_change_nothing(parts: list[str], cuts: list[int], markers: Markers) -> None:
    """However a reply is cut, its segments are the same."""
    reply = "".join(parts)
    places = sorted({0, *(cut for cut in cuts if cut < len(reply)), len(reply)})
    chunks = [reply[start:end] for start, end in itertools.pairwise(places)]
    assert read(markers, chunks) == read(markers, [reply])


@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_no_text_is_lost(parts: list[str]) -> None:
    """What is no marker and no white space is in one of the segments."""
    pieces = read(MARKERS, ["".join(parts)])
    assert "".join(piece.text for piece in pieces).count("Z") == parts.count("Z")


def test_a_call_of_many_texts_is_read_once() -> None:
    """Also where it comes in one piece: its end is not looked for from each text on."""
    call = "<call>" + '"a"' * 300_000
    assert read(QUOTED, [call]) == [Piece("call", call, closed=True)]


def test_a_stop_sequence_ends_the_text_and_not_what_is_thought() -> None:
    """It is looked for in the text alone, and not across a marker."""
    assembler = SegmentAssembler(("stop",), MARKERS)
    pieces = assembler.feed(b"<think>stop</think>a st<call>stop</call>op b stop c")
    assert assembler.matched == "stop"
    assert (text_of(pieces), thinking_of(pieces), calls_of(pieces)) == ("a stop b ", "stop", ("<call>stop</call>",))
