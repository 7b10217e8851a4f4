"""From the bytes of tokens to text: characters stay whole, wherever the bytes part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.assemble import TextAssembler


def fed(assembler: TextAssembler, chunks: list[bytes]) -> list[str]:
    """What came out for each chunk, and at the end."""
    return [assembler.feed(chunk) for chunk in chunks] + [assembler.finish()]


@given(st.lists(st.binary(max_size=5), max_size=10))
def test_any_bytes_in_any_chunks_decode_as_in_one_piece(chunks: list[bytes]) -> None:
    """Bytes that are no UTF-8 become U+FFFD just where they would in the whole."""
    assert "".join(fed(TextAssembler(()), chunks)) == b"".join(chunks).decode("utf-8", "replace")


@given(st.text(max_size=8), st.text(max_size=8), st.text(min_size=1, max_size=3))
def test_byte_by_byte_the_text_ends_before_the_stop_sequence(before: str, after: str, stop: str) -> None:
    """Characters of several bytes are found in a stop sequence too."""
    text = before + stop + after
    assembler = TextAssembler([stop])
    pieces = fed(assembler, [bytes([byte]) for byte in text.encode()])
    assert "".join(pieces) == text[: text.index(stop)]
    assert assembler.matched == stop


def test_a_character_that_spans_tokens_comes_out_whole() -> None:
    """Its first bytes give no text, its last gives all of it."""
    assert fed(TextAssembler(()), [b"a\xf0", b"\x9f\x90", b"\x98b"]) == ["a", "", "🐘b", ""]


def test_a_character_that_is_cut_off_becomes_a_replacement_character() -> None:
    """Its bytes are not lost in silence."""
    assert fed(TextAssembler(()), [b"a\xf0\x9f"]) == ["a", "�"]


def test_the_beginning_of_a_stop_sequence_is_text_at_the_end() -> None:
    """It is held back only as long as more could come, and stands before a character that was cut off."""
    assembler = TextAssembler(["<end>"])
    assert fed(assembler, [b"a<e", b"\xc3"]) == ["a", "", "<e�"]
    assert assembler.matched is None


def test_after_a_match_nothing_comes_any_more() -> None:
    """Not even the bytes of a character that began after the stop sequence."""
    assembler = TextAssembler(["\n"])
    assert fed(assembler, [b"a\n\xc3", b"\xa9b"]) == ["a", "", ""]
    assert assembler.matched == "\n"


def test_a_match_can_come_as_late_as_the_end() -> None:
    """A longer stop sequence was possible until then."""
    assembler = TextAssembler(["cd", "abcdef"])
    assert fed(assembler, [b"abcd"]) == ["", "ab"]
    assert assembler.matched == "cd"
