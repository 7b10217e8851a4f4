"""What a reply is to follow, as one text: expressions, choices, Lark, and types as schemas."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from typing import Annotated, Any, Literal

import msgspec
import pytest
from helpers.followed import follows, refusal

from erllama_py.chat.gbnf import MAX_CHARACTERS
from erllama_py.chat.json_types import reader, schema_of
from erllama_py.chat.lark import MAX_COLONS, MAX_REGEX
from erllama_py.chat.structure import structure_text
from erllama_py.errors import InvalidGrammar


@pytest.mark.parametrize(
    ("regex", "good", "bad"),
    [
        ("a+", ["a", "aaa"], ["", "b", "ab"]),
        ("^a|b$", ["a", "b"], ["ab"]),
        ("^$", [""], ["a"]),
        ("a$b", [], ["ab", "a$b"]),
        ("\\^a\\$", ["^a$"], ["a"]),
        ("a\\$", ["a$"], ["a"]),
        ("a/b", ["a/b"], ["ab"]),
        ("a\\/b", ["a/b"], []),
        ("[/]{2}", ["//"], ["/"]),
        ("\\\\/", ["\\/"], ["/"]),
        ("//", ["//"], [""]),
        ("a\nb", ["a\nb"], ["anb"]),
        ("a#b //c", ["a#b //c"], ["a"]),
        ("(?i)abc", ["ABC", "aBc"], ["abd"]),
        ("\\d{2}", ["42"], ["4", "ab"]),
        ("é|\\x{65e5}", ["é", "日"], ["e"]),
    ],
)
def test_an_expression_is_for_the_whole_reply(regex: str, good: list[str], bad: list[str]) -> None:
    """With anchors or without; slashes and lines mean nothing else than anywhere."""
    assert [text for text in good if not follows(text, regex=regex)] == []
    if good:
        assert [text for text in bad if follows(text, regex=regex)] == []
    else:
        assert refusal(regex=regex)


@pytest.mark.parametrize(
    ("structure", "problem"),
    [
        ({"regex": ""}, "empty"),
        ({"regex": "a\\"}, "lone backslash"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": "\\bx"}, "lookarounds"),
        ({"regex": "a("}, "unclosed group"),
        ({"regex": "(a)\\1"}, "backreferences"),
        ({"regex": "a" * (MAX_REGEX + 1)}, "bytes"),
        ({"regex": "\ud800"}, "UTF-8"),
        ({"choice": ["a" * MAX_REGEX, "b"]}, "characters together"),
        ({"choice": ["\ud800"]}, "UTF-8"),
        ({"grammar": ""}, "empty"),
        ({"grammar": " \n"}, "empty"),
        ({"grammar": 'root ::= "a"\0'}, "NUL"),
        ({"grammar": 'root ::= "\ud800"'}, "UTF-8"),
        ({"grammar": "#" * (MAX_CHARACTERS + 1)}, "characters"),
        ({"grammar": 'root = "a"'}, "`root ::= …` in GBNF, or `start: …` in Lark"),
        ({"grammar": '{"grammars": [{"lark_grammar": "start: /a/"}]}'}, "expecting a rule"),
        ({"grammar": "start: x"}, "x"),
        ({"grammar": 'begin: "a"'}, "start"),
        ({"grammar": "start: %lark { start: /a/ }"}, "%lark"),
        ({"grammar": 'start: %json {"multipleOf": 99999999}'}, "remainders"),
        ({"grammar": 'start: %json\n {"items": {"not": {}}}'}, "not"),
        ({"grammar": 'start: %json {"const": ' + "9" * 5_000 + "}"}, "`%json`"),
        ({"grammar": "start: %json " + "[" * 20_000}, "`%json`"),
        ({"grammar": "start: @other"}, "other"),
        ({"grammar": "start: /[" + "a" * MAX_REGEX + "]/"}, "regular expression"),
        ({"grammar": "start: r0\n" + "r0: r0\n" * MAX_COLONS}, "colons"),
        ({"grammar": "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(200)) + 'r200: "a"'}, "chain"),
        ({"grammar": "start: " + "(" * 1000 + '"a"' + ")" * 1000}, "nested"),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_reply_can_follow_says_why(structure: dict[str, Any], problem: str) -> None:
    """Each before there is a request."""
    assert problem in refusal(**structure)


def test_a_choice_stands_for_itself() -> None:
    """Its signs mean nothing, one may begin another, and twice the same is once."""
    choice = ["a", "a.*b", "a|b", "x/y\n", "日本", "a"]
    assert [text for text in choice if not follows(text, choice=choice)] == []
    assert [text for text in ("b", "axb", "", "x/y", "aa") if follows(text, choice=choice)] == []


def test_lark_is_taken_as_it_is() -> None:
    """With what only Lark has."""
    lark = (
        'start: item (", " item)* "." // a list\nitem: WORD | %json {"type": "integer", "minimum": 3}\nWORD: /[a-z]+/'
    )
    assert follows("ab, 12, c.", grammar=lark)
    assert not follows("ab, 1.", grammar=lark)
    assert refusal(grammar="%llguidance {}\nstart: " + "a " * 50 + '\na: "x" | "(" a ")"') == ""


def test_without_a_structure_there_is_no_text() -> None:
    """And the engine draws from everything."""
    assert structure_text() is None


def test_the_same_structure_is_the_same_text() -> None:
    """So that what was compiled is found, whatever order a set of choices came in."""
    assert structure_text(choice=["b", "a"]) == structure_text(choice=["a", "b"])
    text = structure_text(json_schema=list[int])
    assert text is not None
    assert json.loads(text) == json.loads(structure_text(json_schema=schema_of(list[int])) or "")


class Node(msgspec.Struct):
    """A type that holds itself."""

    value: Literal[1, 2]
    below: list[Node] = []


def test_a_recursive_type_is_held() -> None:
    """By references to its own definition."""
    assert follows('{"value": 1, "below": [{"value": 2}]}', json_schema=Node)
    assert not follows('{"value": 1, "below": [{"value": 3}]}', json_schema=Node)
    assert reader(Node)('{"value": 1, "below": [{"value": 2}]}') == Node(1, [Node(2)])


@pytest.mark.parametrize("kind", [complex, object, 3, len, lambda: None, set[complex], msgspec.UNSET])
def test_a_type_without_a_json_form_is_refused(kind: Any) -> None:
    """With what is known of it."""
    with pytest.raises(InvalidGrammar):
        structure_text(json_schema=kind)


@pytest.mark.slow
def test_pydantic_is_not_imported_for_others() -> None:
    """Who has none pays nothing for it."""
    code = (
        "import sys, erllama_py\nfrom erllama_py.chat.json_types import reader, schema_of\n"
        "schema_of(list[int]), reader(list[int])\nassert 'pydantic' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Meeting(msgspec.Struct):
    """Times of all kinds, where msgspec's own schema says no more than that they are texts."""

    at: datetime.datetime | None
    days: list[datetime.datetime]
    hours: dict[str, datetime.time]
    pair: tuple[datetime.datetime, int]
    zoned: Annotated[datetime.datetime, msgspec.Meta(tz=True)]
    next: Meeting | None = None


class Span(msgspec.Struct, array_like=True, tag=True):
    """An array, which newer writers may make longer."""

    begin: datetime.datetime
    names: set[str]


def test_times_have_their_format_in_the_schema_of_a_type() -> None:
    """Else a model may write any text, and no value comes of it."""
    fields: dict[str, Any] = schema_of(Meeting)["$defs"]["Meeting"]["properties"]
    moment = {"type": "string", "format": "date-time"}
    assert fields["at"] == {"anyOf": [moment, {"type": "null"}]}
    assert fields["days"]["items"] == fields["pair"]["prefixItems"][0] == fields["zoned"] == moment
    assert fields["hours"]["additionalProperties"] == {"type": "string", "format": "time"}
    assert schema_of(datetime.datetime) == moment
    assert reader(datetime.datetime)('"2026-01-02T03:04:05Z"') == datetime.datetime(
        2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC
    )


def test_an_array_of_fields_is_no_longer_than_they_are_and_a_set_says_nothing_of_equal_items() -> None:
    """The first would go on for ever, the second is a keyword that no grammar holds."""
    array = schema_of(Span | None)["$defs"]["Span"]
    assert array["items"] is False
    assert array["prefixItems"][1:] == [
        {"type": "string", "format": "date-time"}, {"type": "array", "items": {"type": "string"}},
    ]  # fmt: skip
