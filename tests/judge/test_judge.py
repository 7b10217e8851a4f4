"""The judge itself: its conversations are sound, and it tells right calls from wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from erllama_py.handle.tool_list import tool_list
from judge.functions import FUNCTIONS
from judge.play import same_calls
from judge.stories import ANY, STORIES
from judge.tools import main


def filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: filled(one) for key, one in value.items()}
    return [filled(one) for one in value] if isinstance(value, list) else "x" if value is ANY else value


def test_there_are_forty_conversations_that_can_be_had() -> None:
    """Each wants calls that its tools take, and no two have one name."""
    assert len(STORIES) == len({story.name for story in STORIES}) == 40
    for story in STORIES:
        tools = {tool.name: tool for tool in tool_list([FUNCTIONS[name] for name in story.tools.split()])}
        for turn in story.turns:
            for name, arguments in turn.calls:
                function = tools[name].function
                assert function is not None
                assert function.call(**function.read(filled(arguments))) is not None


@pytest.mark.parametrize(
    ("made", "right"),
    [
        ([("f", {"city": "rome"}), ("g", {"on": True})], True),
        ([("g", {"on": True}), ("f", {"city": " Rome."})], True),
        ([("f", {"city": "Rome"}), ("g", {"on": 1})], False),
        ([("f", {"city": "Rome", "unit": "celsius"}), ("g", {"on": True})], False),
        ([("f", {"city": "Oslo"}), ("g", {"on": True})], False),
        ([("f", {"city": "Rome"})], False),
    ],
)
def test_right_calls_are_told_from_wrong_ones(made: Any, right: bool) -> None:
    """In any order, whatever the case of texts."""
    assert same_calls(made, [("f", {"city": "Rome"}), ("g", {"on": True})]) == right


@pytest.mark.parametrize("arguments", [[], [""], ["/nowhere/model.gguf"]])
def test_without_a_model_it_says_what_to_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And ends with a status of its own."""
    assert main(arguments) == 2
    assert "make judge JUDGE_MODEL=" in capsys.readouterr().err
