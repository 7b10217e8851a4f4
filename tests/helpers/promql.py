"""A checker of PromQL, for the queries of dashboards and alerts: their syntax, types, series and labels.

    query('sum by (route) (rate(erllama_http_requests_total[5m]))', labels_of)

`labels_of` gives the labels of a series, `None` for one that is not there. Of the language it knows what such queries
are made of (https://prometheus.io/docs/prometheus/latest/querying/basics/), and refuses all else. Each expression has a
type and the labels that its samples may have; a label that nothing has is a mistake that Prometheus would not report.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

LabelsOf = Callable[[str], "frozenset[str] | None"]
NONE = frozenset[str]()

TOKEN = re.compile(r"""
    (?P<space>\s+) | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?(?![\w.]))
  | (?P<duration>(?:\d+(?:ms|[smhdwy]))+(?!\w)) | (?P<name>[a-zA-Z_:][\w:]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*") | (?P<operator>==|!=|<=|>=|=~|!~|[-+*/%^<>=(){}\[\],])
""", re.X)  # fmt: skip
# Binary operators, those that bind least first; each level from left to right.
LEVELS = (("or",), ("and", "unless"), ("==", "!=", "<=", ">=", "<", ">"), ("+", "-"), ("*", "/", "%"), ("^",))
COMPARISONS, SETS = LEVELS[2], {"or", "and", "unless"}
AGGREGATIONS = {"sum": "v", "min": "v", "max": "v", "avg": "v", "count": "v", "topk": "sv", "bottomk": "sv"}
# By the types of their arguments: a scalar, a vector, a matrix.
FUNCTIONS = {
    "rate": "m", "irate": "m", "increase": "m", "delta": "m", "changes": "m", "resets": "m", "avg_over_time": "m",
    "max_over_time": "m", "min_over_time": "m", "histogram_quantile": "sv", "clamp_min": "vs", "clamp_max": "vs",
    "absent": "v", "abs": "v", "ceil": "v", "floor": "v", "round": "v", "time": "",
}  # fmt: skip


class Wrong(ValueError):
    """What is wrong with a query."""


class Expression(NamedTuple):
    """A part of a query: its type (`"s"`, `"v"`, `"m"`), the labels that its samples may have, and its series."""

    kind: str
    labels: frozenset[str]
    series: frozenset[str]


def query(text: str, labels_of: LabelsOf) -> Expression:
    """What a query gives. Raises `Wrong`."""
    parser = _Parser(text, labels_of)
    found = parser.binary(0)
    parser.expect("")
    return found


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = list[tuple[str, str]](), 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise Wrong(f"{text[at : at + 20]!r} is nothing of PromQL")
        if match.lastgroup != "space":
            found.append((match.lastgroup, match[0]))
        at = match.end()
    return [*found, ("end", "")]


class _Parser:
    def __init__(self, text: str, labels_of: LabelsOf) -> None:
        self._tokens, self._at, self._labels_of = _tokens(text), 0, labels_of

    # --- tokens --------------------------------------------------------------------------------------------------

    @property
    def _next(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, kind: str) -> str:
        found, text = self._tokens[self._at]
        if found != kind:
            raise Wrong(f"a {kind} is expected, and not {text!r}")
        self._at += 1
        return text

    def _took(self, *texts: str) -> str | None:
        if self._tokens[self._at][0] in ("name", "operator") and self._next in texts:
            self._at += 1
            return texts[texts.index(self._tokens[self._at - 1][1])]
        return None

    def expect(self, text: str) -> None:
        """The next token is this one."""
        if self._next != text:
            raise Wrong(f"{text or 'the end'!r} is expected, and not {self._next!r}")
        self._at += 1

    # --- expressions ---------------------------------------------------------------------------------------------

    def binary(self, level: int) -> Expression:
        """An expression whose operators bind at least so much."""
        if level == len(LEVELS):
            return self._unary()
        left = self.binary(level + 1)
        while (operator := self._took(*LEVELS[level])) is not None:
            is_bool = operator in COMPARISONS and self._took("bool") is not None
            matching = self._matching()
            left = _joined(left, operator, is_bool, matching, self.binary(level + 1))
        return left

    def _matching(self) -> tuple[str, frozenset[str], frozenset[str] | None] | None:
        how = self._took("on", "ignoring")
        if how is None:
            return None
        names = self._label_list()
        group = self._took("group_left", "group_right")
        return how, names, None if group is None else self._label_list() if self._next == "(" else NONE

    def _unary(self) -> Expression:
        if self._took("-", "+"):
            return self._unary()
        kind = self._tokens[self._at][0]
        if kind == "number":
            self._at += 1
            return Expression("s", NONE, NONE)
        if self._took("("):
            found = self.binary(0)
            self.expect(")")
            return found
        name = self._take("name")
        if name in AGGREGATIONS:
            return self._aggregation(name)
        if self._next == "(":
            return self._call(name)
        return self._selector(name)

    def _arguments(self, name: str, kinds: str) -> list[Expression]:
        self.expect("(")
        found = list[Expression]()
        while not self._took(")"):
            if found:
                self.expect(",")
            found.append(self.binary(0))
        if "".join(one.kind for one in found) != kinds:
            raise Wrong(f"{name} takes {kinds!r}, and not {''.join(one.kind for one in found)!r}")
        return found

    def _call(self, name: str) -> Expression:
        if name not in FUNCTIONS:
            raise Wrong(f"{name!r} is no function that is known here")
        arguments = self._arguments(name, FUNCTIONS[name])
        of = next((one for one in arguments if one.kind != "s"), Expression("s", NONE, NONE))
        if name == "histogram_quantile":
            _check_have(of.labels, {"le"}, name)
        if name in ("rate", "irate", "increase") and not all(_is_counter(one) for one in of.series):
            raise Wrong(f"{name} of what is no counter: {sorted(of.series)}")
        dropped = {"histogram_quantile": {"le"}, "absent": of.labels}.get(name, NONE)
        return Expression("v" if of.kind != "s" else "s", of.labels - dropped, of.series)

    def _aggregation(self, name: str) -> Expression:
        how = self._took("by", "without")
        names = self._label_list() if how else NONE
        of = self._arguments(name, AGGREGATIONS[name])[-1]
        if how is None and (how := self._took("by", "without")) is not None:
            names = self._label_list()
        _check_have(of.labels, names, f"{name} {how}")
        if name in ("topk", "bottomk"):
            return of
        return Expression("v", names if how != "without" else of.labels - names, of.series)

    def _selector(self, name: str) -> Expression:
        labels = self._labels_of(name)
        if labels is None:
            raise Wrong(f"there is no series {name!r}")
        if self._took("{"):
            while not self._took("}"):
                _check_have(labels, {self._take("name")}, name)
                if self._took("=~", "!~"):
                    _check_pattern(self._take("string")[1:-1])
                elif self._took("=", "!="):
                    self._take("string")
                else:
                    raise Wrong(f"{self._next!r} matches nothing")
                if self._next != "}":
                    self.expect(",")
        kind = "v"
        if self._took("["):
            self._take("duration")
            self.expect("]")
            kind = "m"
        if self._took("offset"):
            self._take("duration")
        return Expression(kind, labels, frozenset({name}))

    def _label_list(self) -> frozenset[str]:
        self.expect("(")
        found = set[str]()
        while not self._took(")"):
            if found:
                self.expect(",")
            found.add(self._take("name"))
        return frozenset(found)


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise Wrong(f"{pattern!r} is no pattern: {error}") from None


def _is_counter(name: str) -> bool:
    return name.endswith(("_total", "_bucket", "_count", "_sum"))


def _check_have(labels: frozenset[str], names: set[str] | frozenset[str], where: str) -> None:
    if missing := names - labels:
        raise Wrong(f"{where}: nothing there has the labels {sorted(missing)}")


def _joined(
    left: Expression, operator: str, is_bool: bool,
    matching: tuple[str, frozenset[str], frozenset[str] | None] | None, right: Expression,
) -> Expression:  # fmt: skip
    if "m" in (left.kind, right.kind):
        raise Wrong(f"{operator} between ranges")
    series, vectors = left.series | right.series, [one for one in (left, right) if one.kind == "v"]
    if not vectors:
        if operator in SETS or (operator in COMPARISONS and not is_bool):
            raise Wrong(f"{operator} between numbers")
        return Expression("s", NONE, series)
    if len(vectors) == 1:
        if operator in SETS or matching is not None:
            raise Wrong(f"{operator} is for two vectors here")
        return Expression("v", vectors[0].labels, series)
    return Expression("v", _matched(left, operator, matching, right), series)


def _matched(
    left: Expression, operator: str, matching: tuple[str, frozenset[str], frozenset[str] | None] | None,
    right: Expression,
) -> frozenset[str]:  # fmt: skip
    """The labels of two vectors together, whose samples must be found to belong together."""
    if matching is None:
        if left.labels != right.labels and operator != "or":
            raise Wrong(f"{operator}: {sorted(left.labels)} and {sorted(right.labels)} never match")
        return left.labels | right.labels
    how, names, group = matching
    if how == "on":
        _check_have(left.labels & right.labels, names, f"{operator} on")
    if operator in SETS:
        return left.labels
    if group is not None:
        return left.labels | group
    return names if how == "on" else left.labels - names
