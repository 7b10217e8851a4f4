"""The table of formats: what each looks like, which templates speak it, and what is made of replies in it."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any, get_args

import pytest
from helpers.random_schemas import REFUSED, random_schema
from helpers.tool_replies import (
    NOOP,
    ONE_CALL,
    TAGGED,
    TEMPLATES,
    WEATHER,
    WRITTEN,
    Call,
    grammar,
    grouped,
    is_followed,
    matcher,
    read,
    tools,
)
from helpers.valid import problem
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.chat.tool_formats import FORMATS, ToolFormat, find_format, format_named
from erllama_py.engine.structure import Matcher
from erllama_py.engine.stub_logits import END
from erllama_py.errors import InvalidSchema
from erllama_py.options.model import ToolFormatName

TOOLS = tools(WEATHER, NOOP)
ALL = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
PARIS: Call = ("get_weather", {"city": "Paris", "days": 3})

LIKELY = '"}])<|>\n`/{[abcdefghijklmnopqrstuvwxyz_'  # other bytes would make long texts of nothing

# Replies that are no well-formed calls, or that models write beside the usual form: the tool, the arguments, and a part
# of the problem.
Row = tuple[str, str, str, dict[str, Any], str | None]
OTHERS: list[Row] = [
    ("hermes", '<tool_call>{"name":"noop","arguments":{}}</tool_call>', "noop", {}, None),
    ("hermes", '<tool_call>\n{"name": "noop"}\n</tool_call>', "noop", {}, None),
    ("hermes", '<tool_call>{"name": "noop", "parameters": "{}"}</tool_call>', "noop", {}, None),
    ("hermes", '<tool_call>{"type": "function", "function": {"name": "noop"}}</tool_call>', "noop", {}, None),
    ("hermes", '<tool_call>{"name": "nop", "arguments": {}}</tool_call>', "nop", {}, "did you mean 'noop'?"),
    ("hermes", "<tool_call>noop()</tool_call>", "", {}, "a call is a JSON object"),
    ("hermes", "<tool_call></tool_call>", "", {}, "no call in it"),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>', "", {}, "names no tool"),
    ("hermes", '<tool_call>{"name": "noop", "arguments": [1]}</tool_call>', "noop", {}, "no JSON object"),
    ("hermes", '<tool_call>{"name": "noop", "arguments": "{"}</tool_call>', "noop", {}, "no JSON"),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>', "get_weather", {}, "is missing"),
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa', "get_weather", {"city": "Pa"},
     "not complete"),
    ("hermes", '<tool_call>\n{"name": "get_we', "", {}, "not complete"),
    ("hermes", "<tool_call>", "", {}, "no call in it"),
    ("hermes", '<tool_call>{"name": "noop", "arguments": {"a": NaN}}</tool_call>', "", {}, "no JSON"),
    ("hermes", '<tool_call>{"name": "noop", "arguments": ' + '{"a": ' * 9000, "", {}, "no JSON"),
    ("mistral", "[TOOL_CALLS][]", "", {}, "no call in it"),
    ("mistral", '[TOOL_CALLS] [{"arguments": {}, "name": "noop", "id": "abcdefghi"}]', "noop", {}, None),
    ("mistral_named", "[TOOL_CALLS]noop[CALL_ID]abcdefghi[ARGS]{}", "noop", {}, None),
    ("mistral_named", "[TOOL_CALLS]noop[ARGS]", "noop", {}, "not complete"),
    ("mistral_named", "[TOOL_CALLS]noo", "", {}, "no arguments"),
    ("mistral_named", "[TOOL_CALLS]noop[ARGS][1]", "noop", {}, "no JSON object"),
    ("harmony", "<|channel|>commentary to=functions.noop<|message|>{}", "noop", {}, None),
    ("llama3", '<|python_tag|>{"name": "noop", "parameters": {}}', "noop", {}, None),
    ("llama3", '{"type": "function", "name": "noop", "parameters": {}}', "noop", {}, None),
    ("phi4", 'functools[{"name": "noop", "arguments": {}}]', "noop", {}, None),
    ("granite", '<|tool_call|>{"name": "noop", "arguments": {}}', "noop", {}, None),
    ("functionary", "noop\n{}", "noop", {}, None),
    ("qwen3_coder", "<tool_call>\n<function=noop></function></tool_call>", "noop", {}, None),
    ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nPa", "get_weather", {"city": "Pa"},
     "not complete"),
    ("qwen3_coder", "<tool_call>\n<function=get", "", {}, "no end"),
    ("qwen3_coder", "<tool_call><function=get_weather><parameter=city>a</parameter><parameter=alerts>True</parameter>"
     "</function></tool_call>", "get_weather", {"city": "a", "alerts": True}, None),
    ("glm", "<tool_call>noop</tool_call>", "noop", {}, None),
    ("lfm2", '<|tool_call_start|>[{"name": "noop", "arguments": {}}]<|tool_call_end|>', "noop", {}, None),
    ("lfm2", "<|tool_call_start|>[noop(1)]<|tool_call_end|>", "", {}, "a name is expected"),
    ("lfm2", "<|tool_call_start|>[get_weather(city='it\\'s', alerts=true)]", "get_weather",
     {"city": "it's", "alerts": True}, None),
    ("lfm2", "<|tool_call_start|>[get_weather(city='Pa", "get_weather", {"city": "Pa"}, "not complete"),
    ("lfm2", "<|tool_call_start|>[noop(a=__import__('os'))]", "", {}, "no value"),
    ("lfm2", "<|tool_call_start|>[noop(a=" + "[" * 9000, "", {}, "nest"),
    ("pythonic", "[noop(), get_weather(", "noop", {}, None),
]  # fmt: skip


def test_each_format_has_a_name_a_template_and_a_way_to_write_it() -> None:
    """A new entry has a row in the tables here, and a name that the option takes."""
    names = [form.name for form in FORMATS]
    assert names == [*TEMPLATES] == [*WRITTEN] == [*get_args(ToolFormatName)]
    assert [format_named(name) for name in names] == [*FORMATS]
    assert format_named("nothing") is None


@ALL
def test_a_format_is_known_from_its_template(form: ToolFormat) -> None:
    """By its words alone."""
    assert find_format(TEMPLATES[form.name]) is form


def test_a_template_that_knows_no_tools_has_no_format() -> None:
    """Whatever its words are."""
    assert find_format("<tool_call>") is None


@ALL
def test_a_call_is_read(form: ToolFormat) -> None:
    """Its name, its arguments, its text, and the text before it, which is not part of it."""
    written = WRITTEN[form.name]([PARIS])
    text, calls, _ = read(form, TOOLS, [written])
    assert (text, [(one.name, one.arguments, one.text, one.problem) for one in calls]) == (
        "",
        [(*PARIS, written, None)],
    )
    has_marker = written.startswith(form.marks(["get_weather"]).opens)  # else it can only begin a reply
    assert read(form, TOOLS, [f"Sure. {written}"])[0] == ("Sure." if has_marker else f"Sure. {written}")


@ALL
def test_several_calls_are_read(form: ToolFormat) -> None:
    """In their order; their texts together are all that was written, but for white space between sections."""
    wanted: list[Call] = [PARIS, ("noop", {}), ("get_weather", {"city": "Rome"})]
    if form.name in ONE_CALL:
        wanted = wanted[:1]
    written = WRITTEN[form.name](wanted)
    text, calls, _ = read(form, TOOLS, [written])
    assert (text, [(one.name, one.arguments) for one in calls]) == ("", wanted)
    assert "".join("".join(one.text.split()) for one in calls) == "".join(written.split())
    assert len({one.id for one in calls}) == len(calls)


@ALL
@pytest.mark.parametrize("city", ["Zürich", "東京 🗼", 'a"b\\c', "{[(", "}])</", "x, y=1", "it's", " padded ", ""])
def test_texts_of_all_kinds_are_read(form: ToolFormat, city: str) -> None:
    """What looks like syntax is text where it is in one."""
    _, calls, _ = read(form, TOOLS, [WRITTEN[form.name]([("get_weather", {"city": city})])])
    assert [(one.arguments, one.problem) for one in calls] == [({"city": city}, None)]


@pytest.mark.parametrize("form", [form for form in FORMATS if form.name not in TAGGED], ids=lambda form: form.name)
def test_markers_in_texts_are_text(form: ToolFormat) -> None:
    """What opens and closes calls may be in their arguments, where texts are in quotes."""
    marks = form.marks(["get_weather"])
    wanted: list[Call] = [("get_weather", {"city": f"{''.join(marks.opens)} {marks.end} </think>"})]
    _, calls, _ = read(form, TOOLS, [WRITTEN[form.name](wanted)])
    assert [(one.name, one.arguments) for one in calls] == wanted


@pytest.mark.parametrize(("name", "reply", "tool", "arguments", "problem"), OTHERS, ids=range(len(OTHERS)))
def test_other_forms_are_read_and_malformed_ones_told(
    name: str, reply: str, tool: str, arguments: dict[str, Any], problem: str | None
) -> None:
    """The table above: nothing raises, nothing is lost, and what is wrong is said."""
    form = format_named(name)
    assert form is not None
    text, calls, _ = read(form, TOOLS, [reply])
    assert text == ""
    assert (calls[0].name, calls[0].arguments) == (tool, arguments)
    assert "".join(call.text for call in calls) == reply
    assert problem in str(calls[0].problem) if problem else calls[0].problem is None


CITIES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ARGUMENTS = st.fixed_dictionaries(
    {"city": CITIES},
    optional={
        "days": st.integers(1, 14), "unit": st.sampled_from(["celsius", "fahrenheit"]), "alerts": st.booleans(),
    },
)  # fmt: skip
CALLS = st.lists(st.tuples(st.just("get_weather"), ARGUMENTS) | st.just(("noop", {})), min_size=1, max_size=3)


@ALL
def test_references_lead_anywhere_in_the_parameters(form: ToolFormat) -> None:
    """To another argument, as zod writes them, to a definition, or to the whole."""
    size = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    properties = {
        "a": size, "b": {"$ref": "#/properties/a"}, "c": {"type": "array", "items": {"$ref": "#"}},
        "d": {"type": "array", "items": {"$ref": "#/$defs/e"}},
    }  # fmt: skip
    parameters = {"type": "object", "properties": properties, "$defs": {"e": {"$ref": "#/properties/a/properties/n"}}}
    asked = tools({"name": "draw", "parameters": parameters})
    call = {"a": {"n": 1}, "b": {"n": 2}, "c": [{"b": {"n": 3}}], "d": [4]}
    assert is_followed(grammar(form, asked, "required"), WRITTEN[form.name]([("draw", call)]))
    wrong = {"b": {"n": "x"}}
    assert not is_followed(grammar(form, asked, "required"), WRITTEN[form.name]([("draw", wrong)]))


@pytest.mark.parametrize(("text", "is_allowed"), [("a\n\n<b>\n", True), ("", True), ("</parameter", True),
                                                 ("a</parameter>b", False), ("</parameter>", False)])  # fmt: skip
def test_a_text_between_tags_lacks_the_one_that_ends_it(text: str, is_allowed: bool) -> None:
    """In the grammar as for the reader, with a line feed before it or without."""
    form = format_named("qwen3_coder")
    assert form is not None
    written = WRITTEN[form.name]([("get_weather", {"city": text})])
    assert is_followed(grammar(form, TOOLS, "required"), written) == is_allowed
    if is_allowed:
        assert read(form, TOOLS, [written])[1][0].arguments == {"city": text}


@ALL
@pytest.mark.parametrize("filler", [" ", "\n", " \n", "<", "[", "{", ",", "<|channel|>", "<arg_key>", "<parameter="])
def test_a_section_of_much_the_same_is_read_at_once(form: ToolFormat, filler: str) -> None:
    """Whatever is searched for in it: nothing is tried from each place to the end."""
    marks = form.marks(["noop"])
    section = f"{(marks.opens or marks.at_start)[0]}noop{filler * 50_000}x"
    assert [call.problem is None for call in read(form, TOOLS, [section])[1]] in ([], [False])


@pytest.mark.slow
@settings(max_examples=400)
@given(st.sampled_from(FORMATS), CALLS, st.lists(st.integers(0, 400), max_size=12), st.integers(0, 400) | st.none())
def test_chunks_change_nothing(form: ToolFormat, wanted: list[Call], cuts: list[int], cut: int | None) -> None:
    """However a reply is cut into chunks, its calls and its events are the same; the deltas of a call are its text."""
    wanted = _writable(form, wanted)
    reply = "Hi. " * (cut is None) + WRITTEN[form.name](wanted)[:cut]
    places = sorted({0, *(place for place in cuts if place < len(reply)), len(reply)})
    text, calls, events = read(form, TOOLS, [reply[start:end] for start, end in itertools.pairwise(places)])
    whole = read(form, TOOLS, [reply])
    assert (text, [(one.name, one.arguments, one.text, one.problem) for one in calls]) == (
        whole[0], [(one.name, one.arguments, one.text, one.problem) for one in whole[1]],
    )  # fmt: skip
    assert _final(grouped(events)) == _final(grouped(whole[2]))
    deltas = [one[0] for one in grouped(events) if isinstance(one, tuple)]
    assert deltas == [call.text for call in calls]


def _writable(form: ToolFormat, wanted: list[Call]) -> list[Call]:
    """Those of the calls that a format can write, in one reply."""
    found = [one for one in wanted if form.name not in TAGGED or not _has_tag(one)]
    return found[:1] if form.name in ONE_CALL else found


def _has_tag(call: Call) -> bool:
    city = call[1].get("city", "")
    return "<" in city or city != city.strip()


def _final(events: list[Any]) -> list[Any]:
    """Without what is known of a call while it is written: that depends on how often one looks."""
    return [one[0] if isinstance(one, tuple) else one for one in events]


@pytest.mark.slow
@settings(max_examples=300)
@given(st.sampled_from(FORMATS), CALLS)
def test_what_was_written_is_read(form: ToolFormat, wanted: list[Call]) -> None:
    """Random arguments, written in the format and read again, are the same; and the grammar lets them pass."""
    wanted = [one for one in wanted if form.name not in TAGGED or not _has_tag(one)][
        : 1 if form.name in ONE_CALL else None
    ]
    if not wanted:
        return
    _, calls, _ = read(form, TOOLS, [WRITTEN[form.name](wanted)])
    assert [(one.name, one.arguments, one.problem) for one in calls] == [(*one, None) for one in wanted]


@ALL
def test_the_grammar_takes_calls_and_text(form: ToolFormat) -> None:
    """Free text, text and calls, calls alone; and nothing that begins as a call and is none."""
    auto, required = grammar(form, TOOLS), grammar(form, TOOLS, "required")
    one, several = WRITTEN[form.name]([PARIS]), WRITTEN[form.name]([PARIS, ("noop", {})])
    if form.name not in ONE_CALL:
        assert is_followed(auto, several)
        assert is_followed(required, several)
        assert not is_followed(grammar(form, TOOLS, several=False), several)
        assert not is_followed(grammar(form, TOOLS, "required", several=False), several)
    assert is_followed(auto, one)
    assert is_followed(required, one)
    assert is_followed(auto, "Hello <tool_ {x} [y] >> f(\n")
    assert is_followed(auto, "")
    assert not is_followed(required, "Hello")
    assert not is_followed(required, "")
    for opener in form.marks([tool.name for tool in TOOLS]).opens:
        assert not is_followed(auto, f"Hi {opener}x")


@ALL
def test_a_call_that_the_schema_does_not_allow_cannot_be_written(form: ToolFormat) -> None:
    """An unknown tool, a missing argument, a number beyond its bounds."""
    auto = grammar(form, TOOLS)
    wrong: list[Call] = [("noon", {}), ("get_weather", {"city": "a", "days": 99}), ("get_weather", {"days": 3})]
    for one in wrong:
        written = WRITTEN[form.name]([one])
        if one[0] != "noon" or form.name not in ("functionary", "pythonic"):  # text, where no tool has the name
            assert not is_followed(auto, written), written


@ALL
def test_where_nothing_may_be_called_no_call_can_be_written(form: ToolFormat) -> None:
    """`tool_choice="none"`: the marker cannot be completed; other text can, also what looks like its beginning."""
    none = grammar(form, TOOLS, "none")
    assert is_followed(none, "Hello <tool_ {x} [y] >> f(\n")
    assert not is_followed(none, WRITTEN[form.name]([PARIS]))
    assert is_followed(none, "")


def by_chance(luck: random.Random, found: Matcher) -> str | None:
    """A reply of random bytes, those that end things preferred; None for one that they do not end."""
    drawn: list[int] = []
    while not found.is_over and len(drawn) < 4000:
        allowed = [int(token) for token in found.allowed(300).nonzero()[0]]
        likely = [token for token in allowed if token < END and chr(token) in LIKELY]
        token = luck.choice(likely if likely and luck.random() < 0.8 else allowed)
        if token >= END:
            break
        found.accept(token)
        drawn += [token, *found.forced()]
    return bytes(drawn).decode() if len(drawn) < 4000 else None


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("seed", range(6))
def test_random_draws_under_the_grammar_are_valid_calls(form: ToolFormat, seed: int) -> None:
    """Whatever is drawn: the reply is one call, of a tool that there is, with arguments that its schema allows."""
    reply = by_chance(random.Random(seed), matcher(grammar(form, TOOLS, "required", several=False)))
    if reply is None:
        return
    text, calls, _ = read(form, TOOLS, [reply])
    assert (text.strip(), len(calls)) == ("", 1), reply
    assert calls[0].problem is None, reply


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n else []) for n in range(3)])
def test_random_tools_are_called_validly_by_chance(form: ToolFormat, seed: int) -> None:
    """Schemas by chance, and random bytes under the grammar: each call that comes to its end obeys its schema, by
    another validator too. A schema that the format cannot write is refused."""
    luck, ended, one_by_one = random.Random(seed), 0, form.name in (*TAGGED, "lfm2", "pythonic")
    for _ in range(12):
        schema = random_schema(luck)
        if schema.get("type") != "object" or schema.keys() & REFUSED:
            continue
        offered = tools({"name": "f", "parameters": schema})
        if one_by_one and schema.keys() & {"$ref", "anyOf", "patternProperties", "maxProperties"}:
            with pytest.raises(InvalidSchema, match="one by one"):
                grammar(form, offered, "required", several=False)
            continue
        found = matcher(grammar(form, offered, "required", several=False))
        if (reply := by_chance(luck, found)) is None:
            continue
        ended += 1
        text, calls, _ = read(form, offered, [reply])
        assert (text.strip(), [call.problem for call in calls]) == ("", [None]), reply
        assert problem(schema, json.dumps(calls[0].arguments)) is None, (schema, reply)
    assert ended >= 3
