"""What `think` asks of a model, by how the model marks and switches its thinking."""

from __future__ import annotations

from typing import Any

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem


def thinking_options(think: bool | str | None, form: erllama.ChatFormat) -> dict[str, Any]:
    """The options of a conversation for a `think`; a level is told to the template. Raises `Problem`."""
    if think is None or think == "":
        return {}
    if form.thinking is None:
        if think is False:
            return {}
        raise Problem("invalid", "the model does not support thinking: its chat template knows of none", param="think")
    if think is False:
        # Where nothing turns it off, its block is closed as soon as it is opened.
        return {"thinking": False} if form.thinking_off else {"thinking_budget_tokens": 0}
    level = {"reasoning_effort": think} if isinstance(think, str) else {}
    if level and form.thinking_switch in level:
        return {"template_kwargs": level}
    on = {} if form.thinking_switch is None else {"thinking": True}
    return on | ({"template_kwargs": level} if level else {})


def of_prompt(think: bool | str | None, form: erllama.ChatFormat) -> dict[str, Any]:
    """The options of a prompt that is no conversation any more: whether its thinking is told apart, and had."""
    if form.thinking is None:
        return {}
    budget = {"thinking_budget_tokens": 0} if think is False and not form.thinking_off else {}
    return {"thinking": True} | budget
