"""Calls without the markers that their format has: some models forget them."""

from __future__ import annotations

import pytest
from helpers.tool_replies import NOOP, WEATHER, grammar, is_followed, read, tools

from erllama_py.chat.tool_formats import FORMATS

HERMES = next(form for form in FORMATS if form.name == "hermes")
TOOLS = tools(WEATHER, NOOP)
CALL = '{"name": "get_weather", "arguments": {"city": "Ghent"}}'
NONE = '{"name": "noop", "arguments": {}}'
STRUCTURE = '{"grammars": [{"lark_grammar": "start: /.*/"}]}'


def test_a_bare_object_at_the_start_is_a_call() -> None:
    """One, or one a line; after text it is text."""
    for text, names in ((CALL, ["get_weather"]), (f"{CALL}\n{NONE}", ["get_weather", "noop"]), (f"So: {CALL}", [])):
        said, calls, _ = read(HERMES, TOOLS, [*text])
        assert [(call.name, call.problem) for call in calls] == [(name, None) for name in names]
        assert said == ("" if names else text)


@pytest.mark.parametrize(
    ("reply", "followed"),
    [
        (CALL, True),
        (f"{CALL}\n{NONE}", True),
        (f"<tool_call>\n{CALL}\n</tool_call>", True),
        ('{"name": "other", "arguments": {}}', False),
        ('{"name": "get_weather", "arguments": {}}', False),
        (f"{CALL} and so on", False),
        ('{"colour": "red"}', True),
    ],
)
def test_such_calls_are_held_to_the_schema_too(reply: str, followed: bool) -> None:
    """Once it has begun like a call."""
    assert is_followed(grammar(HERMES, TOOLS), reply) == followed


def test_a_reply_that_may_follow_a_structure_is_none_for_that() -> None:
    """A record may begin with a name."""
    assert is_followed(grammar(HERMES, TOOLS, structure=STRUCTURE), '{"name": "Ghent"}')


def test_no_calls_means_none_of_these_either() -> None:
    """With `tool_choice="none"`."""
    assert not is_followed(grammar(HERMES, TOOLS, "none"), CALL)
    assert is_followed(grammar(HERMES, TOOLS, "none"), "It is warm.")
