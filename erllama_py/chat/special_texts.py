"""Texts that a tokenizer reads as control tokens, and how those in a conversation stay text. Pure.

A user who writes `<|im_end|>` means ten characters. So before a template is rendered, a mark is put into each such text
of what it is given (`Marks.mark`): a character that occurs nowhere else. In the rendering, the marks show where the
text has to be cut before it is tokenized (`Marks.parts`): no token can be seen across a cut. What the template itself
writes has no marks in it. A cut stays only where there would be a control token across it, so that everything else
gets the tokens that it has without any of this.

Marked are: after its first character, each such text, and whatever begins with the same sign (`<`), since templates
remove words from texts and write them in capitals; the end of a text that ends as one begins, the beginning of one
that begins as one ends, and what could be the middle of one, since templates put texts beside each other.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache
from heapq import merge

import msgspec

from erllama_py.chat.finder import SOME, Finder, joined, matches
from erllama_py.errors import ChatTemplateError

# Characters that Unicode keeps for use inside of programs. JSON may write them as escapes.
MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
_ANY_MARK = re.compile(r"[\ufdd0-\ufdef]|\\u[fF][dD][dDeE][0-9a-fA-F]")

_NO_LETTERS = re.compile(r"^\W+|\W+$")
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_TAG = re.compile(r"[<\[◁][^\s<>\[\]'\"{}]{1,40}[>\]▷]")  # what templates look for

# What an assistant's message may hold as it is: its own thinking and calls, which templates look for in it. Not the
# end of a turn, nor what begins one.
_OWN = re.compile(
    r"[<\[|｜◁/]*(think|thinking|thought|reasoning|tool_calls?|tool▁calls?▁(begin|end)|tool▁call▁(begin|end)|tool▁sep"
    r"|arg_key|arg_value|python_tag|(seed|mm):think|longcat_think|seed:tool_call|TOOL_CALLS|ARGS|CALL_ID|THINK"
    r"|(START|END)_THINKING)[>\]|｜▷]*"
)


class SpecialTexts(msgspec.Struct, frozen=True):
    """The texts of a vocabulary that are read as one token each, whatever stands around them."""

    control: tuple[str, ...] = ()
    """Of control tokens, and of the unknown one."""
    user_defined: tuple[str, ...] = ()
    """Of others; llama.cpp reads them in any text."""


class _Texts:
    """A set of texts, none shorter than two characters, that can be found in others. `kept` are texts that nothing is
    put into, since templates look for them; `source` is what they are looked for in."""

    def __init__(self, texts: Iterable[str], kept: Iterable[str] = (), source: str = "") -> None:
        self._texts = frozenset(text for text in texts if len(text) > 1)
        self._sorted = sorted(self._texts)
        self._reversed = sorted(text[::-1] for text in self._texts)
        self._longest = max(map(len, self._texts), default=0)
        self._finder = Finder(self._texts)
        seconds = self._finder.seconds
        self._firsts = re.compile(f"[{re.escape(''.join(seconds))}]" if seconds else "(?!)")
        lasts = "".join({text[-1] for text in self._texts})
        self._lasts = re.compile(f"[{re.escape(lasts)}]" if lasts else "(?!)")
        self._letters = frozenset("".join(self._texts))
        self._all = "\0".join(self._sorted)
        words = {_NO_LETTERS.sub("", text) for text in self._texts} - self._texts - ROLES
        self._words = {one for one in words if f"'{one}'" not in source and f'"{one}"' not in source}
        signs = "".join(first for first in seconds if not (first.isalnum() or first.isspace()))
        others = sorted((one for one in kept if one not in self._texts), key=len, reverse=True)
        unlike = f"(?!{'|'.join(map(re.escape, others))})" if others else ""
        self._signs = re.compile(f"{unlike}[{re.escape(signs)}]" if signs else "(?!)")

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where they stand in a text, by their beginnings; they may overlap."""
        return self._finder.spans(text)

    def places(self, text: str) -> Iterator[int]:
        """Where marks go in a text, ascending; a place may come again."""
        edges = [0] if self._begins_as_one_ends(text) else []
        if text in self._words or self._could_be_a_middle(text):
            edges.append(1)
        if self._ends_as_one_begins(text):
            edges.append(len(text))
        firsts = (start + 1 for start, _ in self._finder.spans(text))
        return merge(firsts, (sign.end() for sign in matches(self._signs, text)), sorted(edges))

    def _could_be_a_middle(self, text: str) -> bool:
        """Words are not: too many roles and types are named like control tokens. But no role is `endoftext`."""
        short = 0 < len(text) < self._longest and self._letters.issuperset(text)
        return short and not text.replace("_", "a").isalnum() and text in self._all

    def _ends_as_one_begins(self, text: str) -> bool:
        tail = text[-self._longest + 1 :] if self._longest else ""
        return any(_is_begun(self._sorted, tail[first.start() :]) for first in self._firsts.finditer(tail))

    def _begins_as_one_ends(self, text: str) -> bool:
        head = text[: max(0, self._longest - 1)]
        return any(_is_begun(self._reversed, head[last.start() :: -1]) for last in self._lasts.finditer(head))


def _is_begun(texts: list[str], begun: str) -> bool:
    """Whether one of the sorted texts begins so, and goes on."""
    at = bisect_left(texts, begun)
    at += at < len(texts) and texts[at] == begun
    return at < len(texts) and texts[at].startswith(begun)


class _Known(msgspec.Struct, frozen=True):
    """The texts to be marked for one template, and those of them in what the assistant said."""

    all: _Texts
    of_assistant: _Texts


@lru_cache(maxsize=16)
def _known(special: SpecialTexts, source: str) -> _Known:
    """Of user-defined tokens those that the template writes; white space is text in any case. `source` is that of the
    template, and what it writes."""
    texts = [*special.control, *(one for one in special.user_defined if not one.isspace() and one in source)]
    kept = frozenset(_TAG.findall(source))
    of_assistant = [one for one in texts if not (is_own(one) and one in source)]
    return _Known(_Texts(texts, kept, source), _Texts(of_assistant, kept, source))


def is_own(text: str) -> bool:
    """Whether it marks thinking or calls, which an assistant's message may hold where the template writes them too."""
    return _OWN.fullmatch(text) is not None


class Marks:
    """The marks of one conversation. `given` are all texts that its template is given."""

    def __init__(self, special: SpecialTexts, source: str, given: Iterable[str]) -> None:
        used = {_character(found[0]) for text in (source, *given) for found in matches(_ANY_MARK, text)}
        free = [mark for mark in MARKS if mark not in used]
        if not free:
            raise ChatTemplateError("the conversation holds every character that Unicode keeps for programs")
        self._mark = free[0]
        self._split = re.compile(rf"{self._mark}|\\u{ord(self._mark):04x}", re.IGNORECASE)
        self._known = _known(special, source)

    def mark(self, text: str) -> str:
        """A text with its marks. 1 ms for 100,000 characters without control tokens."""
        return self._marked(text, self._known.all)

    def mark_own(self, text: str) -> str:
        """A text of the assistant's, whose thinking and calls stay what they are."""
        return self._marked(text, self._known.of_assistant)

    def _marked(self, text: str, texts: _Texts) -> str:
        return joined(_cut(text, texts.places(text)), self._mark)

    def parts(self, rendered: str) -> Iterator[str]:
        """A rendering without marks, cut where a control token would be seen that the template did not write."""
        text, cuts = self._without(rendered)
        return _cut(text, self._kept(text, cuts))

    def plain(self, rendered: str) -> str:
        """A rendering without marks."""
        return self._without(rendered)[0]

    def _without(self, rendered: str) -> tuple[str, array[int]]:
        """A rendering without marks, and where they were in it: millions of objects would be freed by one call, which
        keeps other threads waiting."""
        blocks, some, cuts, at, gone = list[str](), list[str](), array("q"), 0, 0
        for mark in matches(self._split, rendered):
            some.append(rendered[at : mark.start()])
            cuts.append(mark.start() - gone)
            at, gone = mark.end(), gone + mark.end() - mark.start()
            if len(some) == SOME:
                blocks.append("".join(some))
                some = []
        return "".join([*blocks, *some, rendered[at:]]), cuts

    def _kept(self, text: str, cuts: array[int]) -> Iterator[int]:
        """The cuts that stand in a control token, ascending."""
        seen = 0
        for start, end in self._known.all.spans(text) if cuts else ():
            after = bisect_left(cuts, end)
            yield from cuts[max(seen, bisect_left(cuts, start + 1)) : after]
            seen = max(seen, after)


def _cut(text: str, places: Iterable[int]) -> Iterator[str]:
    """The pieces between places that ascend."""
    start, last = 0, -1
    for place in places:
        if place != last:
            yield text[start:place]
            start = last = place
    yield text[start:]


def _character(found: str) -> str:
    return found if len(found) == 1 else chr(int(found[2:], 16))
