"""GBNF, llama.cpp's form of grammars, in the Lark form that llguidance reads.

What is regular becomes one lexeme: a rule, or a run of elements in a rule, that does not lead back to itself. That is
exact inside of it, and masks of long lexemes are quick; between two lexemes the first takes what it can. The syntax is
that of https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import msgspec

from erllama_py.errors import InvalidGrammar

MAX_CHARACTERS = 32_768
MAX_RULES = 1_000  # groups counted; the compiler follows chains of rules by recursion
MAX_CHAIN = 100  # rules that lead to each other, without going in a circle
MAX_GROUPS = 100  # in each other
MAX_REPETITIONS = 10_000

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANKS = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_TIMES = re.compile(r"[*+?]|\{\s*(\d+)\s*(,?)\s*(\d*)\s*\}")
_TOKEN = re.compile(r"(!?)<(\[\d+\]|[^>\s\[\]]+)>")
_ESCAPE = re.compile(r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([tnr\\"\[\]]))')
_PLAIN = {"t": "\t", "n": "\n", "r": "\r"}
_BEGINS = re.compile(r"(?:\s|#[^\r\n]*+|//[^\r\n]*+)*+[a-zA-Z0-9_-]++\s*+::=")


class Element(msgspec.Struct, frozen=True):
    """One element of a rule: a `lexeme` as Lark writes it, the name of a `rule`, or a `token` of the vocabulary."""

    lexeme: str = ""
    rule: str = ""
    token: str = ""
    times: str = ""  # as Lark writes them


Sequence = tuple[Element, ...]
Rules = dict[str, list[Sequence]]


def is_gbnf(text: str) -> bool:
    """Whether the first rule is written in GBNF."""
    return _BEGINS.match(text) is not None


def to_lark(text: str) -> str:
    """The grammar in Lark. Raises `InvalidGrammar` with what is wrong, and in which line."""
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise InvalidGrammar("the grammar has no 'root' rule")
    refers = {name: {one.rule for sequence in rule for one in sequence if one.rule} for name, rule in rules.items()}
    for name, others in refers.items():
        if unknown := sorted(others - rules.keys()):
            raise InvalidGrammar(f"rule {name!r} refers to {unknown[0]!r}, which is not defined")
    check_chain(refers)
    regular = _regular(rules, refers)
    names = {name: f"{'T' if name in regular else 'r'}{index}" for index, name in enumerate(rules)}
    lines, made = [f"start: {names['root']}"], dict[str, str]()
    for name, rule in rules.items():
        written = (
            _lexeme(sequence, names) if name in regular else _sequence(sequence, names, regular, made)
            for sequence in rule
        )  # fmt: skip
        lines.append(f"{names[name]}: {' | '.join(written)}")
    return "\n".join([*lines, *(f"{name}: {text}" for text, name in made.items())]) + "\n"


def check_chain(refers: dict[str, set[str]]) -> None:
    """Refuse rules that lead to each other in a longer chain than the compiler should follow. Raises
    `InvalidGrammar`."""
    if len(refers) > MAX_RULES:
        raise InvalidGrammar(f"the grammar has more than {MAX_RULES} rules, groups counted")
    depths: dict[str, int] = {}
    for start in refers:
        path: list[tuple[str, list[str]]] = [(start, sorted(refers[start]))] if start not in depths else []
        depths.setdefault(start, 1)
        while path:
            name, open_ = path[-1]
            if open_:
                below = open_.pop()
                if below in refers and below not in depths:
                    depths[below] = 1
                    path.append((below, sorted(refers[below])))
                continue
            path.pop()
            depths[name] = 1 + max((depths[below] for below in refers[name] if below in depths), default=0)
            if depths[name] > MAX_CHAIN or len(path) > MAX_CHAIN:
                raise InvalidGrammar(f"the grammar has a chain of more than {MAX_CHAIN} rules")


def _regular(rules: Rules, refers: dict[str, set[str]]) -> set[str]:
    """The rules that lead neither back to themselves nor to a token of the vocabulary."""
    plain = [name for name, rule in rules.items() if not any(one.token for sequence in rule for one in sequence)]
    found: set[str] = set()
    while new := [name for name in plain if name not in found and refers[name] <= found]:
        found.update(new)
    return found


def _lexeme(sequence: Iterable[Element], names: dict[str, str]) -> str:
    return " ".join(f"{one.lexeme or names[one.rule]}{one.times}" for one in sequence) or '""'


def _sequence(sequence: Sequence, names: dict[str, str], regular: set[str], made: dict[str, str]) -> str:
    """A sequence of a rule that is not regular: runs of what is regular become lexemes, named in `made`."""
    parts: list[str] = []
    run: list[Element] = []
    for one in (*sequence, None):
        if one is not None and (one.lexeme or one.rule in regular):
            run.append(one)
            continue
        if run:
            text = _lexeme(run, names)
            parts.append(made.setdefault(text, f"M{len(made)}"))
            run = []
        if one is not None:
            parts.append(f"{one.token or names[one.rule]}{one.times}")
    return " ".join(parts) or '""'


class _Parser:
    """Reads the rules of a text, from the top."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._rules, self._depth = text, 0, Rules(), 0

    def rules(self) -> Rules:
        """All rules by name, groups as rules of their own. The last of a name counts."""
        self._skip(_BLANKS)
        while self._at < len(self._text):
            name = self._take(_NAME, "the name of a rule")
            self._skip(_BLANKS)
            self._expect("::=")
            self._skip(_BLANKS)
            self._rules[name] = self._alternatives(nested=False)
            if len(self._rules) > MAX_RULES:
                raise self._wrong(f"there are more than {MAX_RULES} rules, groups counted")
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._wrong("expecting an element, '|' or the end of the rule")
            self._skip(_BLANKS)
        return self._rules

    def _alternatives(self, nested: bool) -> list[Sequence]:
        blank = _BLANKS if nested else _BLANK
        found = [self._sequence(blank)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_BLANKS)
            found.append(self._sequence(blank))
        return found

    def _sequence(self, blank: re.Pattern[str]) -> Sequence:
        elements: list[Element] = []
        while (one := self._element()) is not None:
            self._skip(blank)
            while (times := _TIMES.match(self._text, self._at)) is not None:
                self._at = times.end()
                one = self._repeated(one, times)
                self._skip(blank)
            elements.append(one)
        if self._text.startswith(("*", "+", "?", "{"), self._at):
            raise self._wrong("expecting preceding item to repeat")
        return tuple(elements)

    def _element(self) -> Element | None:
        match self._text[self._at : self._at + 1]:
            case '"':
                return Element(json.dumps("".join(map(chr, self._literal())), ensure_ascii=False))
            case "[":
                return Element(self._class())
            case ".":
                self._at += 1
                return Element("/(?s:.)/")
            case "(":
                return self._group()
            case "<" | "!":
                return self._token()
        named = _NAME.match(self._text, self._at)
        if named is None:
            return None
        self._at = named.end()
        return Element(rule=named[0])

    def _group(self) -> Element:
        self._at, self._depth = self._at + 1, self._depth + 1
        if self._depth > MAX_GROUPS:
            raise self._wrong(f"more than {MAX_GROUPS} groups in each other")
        self._skip(_BLANKS)
        alternatives = self._alternatives(nested=True)
        self._expect(")")
        self._depth -= 1
        return self._named(alternatives)

    def _named(self, alternatives: list[Sequence]) -> Element:
        name = f"({len(self._rules)}"  # no rule can be called so
        while name in self._rules:
            name += "("
        self._rules[name] = alternatives
        return Element(rule=name)

    def _repeated(self, one: Element, times: re.Match[str]) -> Element:
        if one.times:  # it is repeated already
            one = self._named([(one,)])
        if times[0] in "*+?":
            return msgspec.structs.replace(one, times=times[0])
        least, most = times[1], times[3] or ("" if times[2] else times[1])
        if max(len(least), len(most)) > 9 or max(int(least), int(most or 0)) > MAX_REPETITIONS:
            raise self._wrong(f"more than {MAX_REPETITIONS} repetitions")
        if most and int(least) > int(most):
            raise self._wrong(f"the repetition {times[0]} has a maximum below its minimum")
        if most and int(most) == 0:
            return Element('""')
        return msgspec.structs.replace(one, times=f"{{{int(least)},{most and int(most)}}}")

    def _token(self) -> Element:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self._wrong("expecting a token of the vocabulary, <name> or <[id]>")
        self._at = found.end()
        if found[1] and not found[2].startswith("["):
            raise self._wrong("all tokens but one are written by its id, !<[id]>")
        return Element(token=f"<[^{found[2][1:]}>" if found[1] else f"<{found[2]}>")

    def _class(self) -> str:
        self._at += 1
        inverted = self._text.startswith("^", self._at)
        self._at += inverted
        inside = ""
        while not self._text.startswith("]", self._at):
            first = last = self._character()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._character()
            inside += f"\\x{{{first:x}}}" + (f"-\\x{{{last:x}}}" if last != first else "")
        if not inside and not inverted:
            raise self._wrong("the class of characters is empty")
        self._at += 1
        return f"/[{'^' if inverted else ''}{inside}]/" if inside else "/(?s:.)/"

    def _literal(self) -> list[int]:
        self._at += 1
        found: list[int] = []
        while not self._text.startswith('"', self._at):
            found.append(self._character())
        self._at += 1
        return found

    def _character(self) -> int:
        """The next character, an escaped one read."""
        if self._at >= len(self._text):
            raise self._wrong("unexpected end of input")
        if self._text[self._at] != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        found = _ESCAPE.match(self._text, self._at)
        if found is None:
            raise self._wrong("unknown escape, or not enough hex digits in it")
        self._at = found.end()
        digits = found[1] or found[2] or found[3]
        code = int(digits, 16) if digits else ord(_PLAIN.get(found[4], found[4]))
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise self._wrong(f"{found[0]} is no character")
        return code

    def _skip(self, blank: re.Pattern[str]) -> None:
        found = blank.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._wrong(f"expecting {what}")
        self._at = found.end()
        return found[0]

    def _expect(self, text: str) -> None:
        if not self._text.startswith(text, self._at):
            raise self._wrong(f"expecting {text}")
        self._at += len(text)

    def _wrong(self, problem: str) -> InvalidGrammar:
        return InvalidGrammar(f"line {self._text.count(chr(10), 0, self._at) + 1}: {problem}")
