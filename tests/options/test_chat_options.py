"""The options of a request that are about its conversation are checked at the door, with what was expected."""

from __future__ import annotations

import pytest

from erllama_py.errors import InvalidOption
from erllama_py.options.request import parse_request_options

WRONG: list[tuple[str, object, str]] = [
    ("thinking", 1, "expected bool or None, got int"),
    ("thinking", "yes", "expected bool or None, got str"),
    ("thinking_markers", True, "expected the two markers, or False, got True"),
    ("thinking_markers", "<think>", "expected bool or a list or None, got str"),
    ("thinking_markers", ["<think>"], "expected a list of length 2, got 1"),
    ("thinking_markers", ["a", "b", "c"], "expected a list of length 2, got 3"),
    ("thinking_markers", ["", "</think>"], "expected str of length >= 1, got 0"),
    ("thinking_markers", ["<think>", "a" * 65], "expected str of length <= 64, got 65"),
    ("thinking_markers", ["<think>", 7], "expected str, got int"),
    ("thinking_markers", [" ", "</think>"], "a marker is more than white space"),
    ("thinking_markers", ["<think>", "<think>\n"], "one of the two is a part of the other"),
    ("thinking_markers", ["<think>", "</think>\ud800"], "the text has no UTF-8 form: it holds a lone surrogate"),
    ("thinking_budget_tokens", -1, "expected int >= 0, got -1"),
    ("thinking_budget_tokens", 1.5, "expected int or None, got float"),
    ("thinking_budget_tokens", True, "expected int or None, got bool"),
    ("thinking_budget_tokens", 1 << 31, "expected int <= 2147483647, got 2147483648"),
    ("thinking_budget_message", 7, "expected str or None, got int"),
    ("thinking_budget_message", "a" * 2001, "expected str of length <= 2000, got 2001"),
    ("thinking_budget_message", "\ud800", "the text has no UTF-8 form: it holds a lone surrogate"),
    ("chat_template", "", "expected str of length >= 1, got 0"),
    ("chat_template", 7, "expected str or None, got int"),
    ("chat_template", b"{{ x }}", "expected str or None, got bytes"),
    ("chat_template", "x" * 100_001, "expected str of length <= 100000, got 100001"),
    ("chat_template", "{{ x }}\0", "it has a NUL character: it is no text"),
    ("template_kwargs", None, "expected a mapping, got None"),
    ("template_kwargs", [("a", 1)], "expected a mapping, got a list"),
    ("template_kwargs", {"a b": 1}, "'a b' is no name that a template can read"),
    ("template_kwargs", {"": 1}, "'' is no name that a template can read"),
    ("template_kwargs", {"_x": 1}, "'_x' is no name that a template can read"),
    ("template_kwargs", {"messages": []}, "'messages' is given to every template already"),
    ("template_kwargs", {"tools": []}, "'tools' is given to every template already"),
    ("template_kwargs", {"bos_token": ""}, "'bos_token' is given to every template already"),
    ("continue_final_message", 1, "expected bool, got int"),
    ("continue_final_message", None, "expected bool, got None"),
    ("tools_in_system", "yes", "expected bool, got str"),
]


@pytest.mark.parametrize(("option", "value", "problem"), WRONG, ids=[f"{row[0]}-{n}" for n, row in enumerate(WRONG)])
def test_a_wrong_value_is_refused_with_what_was_expected(option: str, value: object, problem: str) -> None:
    """Each names its option."""
    with pytest.raises(InvalidOption) as caught:
        parse_request_options({option: value})
    assert caught.value.option == option
    assert caught.value.problem.startswith(problem)  # what to write instead may follow
