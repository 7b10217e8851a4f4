"""Rules of a grammar as they are put together, in llguidance's Lark. Pure.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. Control tokens are no text there: where a marker is
one, the grammar names it by its id, and free text ends before it by itself. A marker may be written as text all the
same, so that form is known too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

Split = Callable[[str], Sequence[int | str]]
"""A marker as the model writes it: control tokens by id, and the texts between them."""

ANY = "ANY: /(?s:.*)/"


class LarkRules:
    """A grammar under way. `shown` are tokens that no text has here although a reader sees them, but for `markers`."""

    def __init__(self, split: Split, shown: Sequence[int] = (), markers: Sequence[str] = ()) -> None:
        self._split = split
        named = {part for marker in markers for part in split(marker)}
        self.shown = _ranges([one for one in shown if one not in named])
        self._lines: list[str] = [ANY]
        self._names: dict[tuple[str, str], str] = {}  # of rules and terminals, by what they say

    def rule(self, body: str, options: str = "") -> str:
        """The name of a rule; the same for the same."""
        return self._named("r", f"{options}: {body}")

    def terminal(self, body: str) -> str:
        """The name of a terminal; the same for the same."""
        return self._named("T", f": {body}")

    def _named(self, kind: str, line: str) -> str:
        if (kind, line) not in self._names:
            self._names[kind, line] = name = f"{kind}{len(self._names)}"
            self._lines.append(name + line)
        return self._names[kind, line]

    def space(self) -> str:
        """The name of the terminal for any white space, or none."""
        return self.terminal("/[ \\t\\r\\n]*/")

    def schema(self, schema: str) -> str:
        """The name of a rule for JSON of a schema, which is JSON itself."""
        return self.rule(f"%json {schema}")

    def marker(self, marker: str) -> str:
        """A marker, by its control tokens or as text."""
        return f"({self._by_id(marker)} | {literal(marker)})" if self._has_tokens(marker) else literal(marker)

    def until(self, marker: str, text: str = "ANY") -> str:
        """A text, the shortest, and then the marker. `text` is the terminal that it matches."""
        forms = [self.rule(f"{text} {literal(marker)}", "[lazy]")]
        first, *_ = self._split(marker)
        if isinstance(first, int):
            forms.append(self.rule(f"{text} {self._by_id(marker)}"))
        elif self._has_tokens(marker):
            head = self.rule(f"{text} {literal(first)}", "[lazy]")
            forms.append(self.rule(f"{head} {self._by_id(marker[len(first) :])}"))
        return f"({' | '.join(forms)})"

    def closed_by(self, marker: str) -> str:
        """Any text with any tokens in it, and then the marker."""
        before = f"(ANY {self.shown})* " if self.shown else ""
        return before + self.until(marker)

    def _has_tokens(self, marker: str) -> bool:
        return any(isinstance(part, int) for part in self._split(marker))

    def _by_id(self, marker: str) -> str:
        return " ".join(f"<[{part}]>" if isinstance(part, int) else literal(part) for part in self._split(marker))

    def text(self, start: str) -> str:
        """The whole grammar, with what its first rule says."""
        return "\n".join([f"start: {start}", *self._lines])


def _ranges(tokens: Sequence[int]) -> str:
    """One of these tokens; empty where there are none."""
    found: list[list[int]] = []
    for token in sorted(tokens):
        if found and found[-1][1] == token - 1:
            found[-1][1] = token
        else:
            found.append([token, token])
    return f"<[{','.join(f'{first}-{last}' for first, last in found)}]>" if found else ""


def literal(text: str) -> str:
    """A text as Lark has it."""
    return json.dumps(text, ensure_ascii=False)


def without(texts: Sequence[str], starts: Sequence[str]) -> str:
    """The body of a terminal: any text in which none of `texts` is, and that begins with none of `starts`."""
    parts = [_lacking(one) for one in texts] or ["/(?s:.*)/"]
    if starts:
        parts.append(f"~/[ \\t\\r\\n]*({'|'.join(map(_escaped, starts))})(?s:.*)/")
    return " & ".join(parts)


def _lacking(text: str) -> str:
    """Any text that this one is not in. Where its first character does not come again in it, that needs no complement,
    which costs more: the text is characters other than the first, and beginnings of it that go on otherwise."""
    first = text[0]
    if first in text[1:] or len(text) == 1:
        return f"/(?s:.*)/ & ~/(?s:.*){_escaped(text)}(?s:.*)/"
    begun = "|".join(_escaped(text[:size]) for size in range(1, len(text)))
    other = "|".join(f"{_escaped(text[:size])}{_none_of(text[size] + first)}" for size in range(1, len(text)))
    return f"/(?s:({_none_of(first)}|({begun})*({other}))*({begun})*)/"


def _none_of(characters: str) -> str:
    return f"[^{''.join(map(_coded, characters))}]"


def _escaped(text: str) -> str:
    return "".join(one if one.isascii() and one.isalnum() else _coded(one) for one in text)


def _coded(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"
