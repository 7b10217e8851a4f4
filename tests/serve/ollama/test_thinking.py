"""`think`, for models that think in different ways."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.served import lines, served_script

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.thinking import of_prompt, thinking_options

MARKS = ("<think>", "</think>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def form(thinking: bool = True, switch: str | None = "enable_thinking", off: bool = True) -> erllama.ChatFormat:
    return erllama.ChatFormat(
        template="x", templates=(), tool_format=None, thinking=MARKS if thinking else None, thinking_switch=switch,
        thinking_off=off,
    )  # fmt: skip


SWITCH, ALWAYS, NEVER = form(), form(switch=None, off=False), form(thinking=False, switch=None, off=False)
EFFORT = form(switch="reasoning_effort", off=False)


@pytest.mark.parametrize(
    ("think", "of", "options"),
    [
        (None, SWITCH, {}),
        ("", SWITCH, {}),
        (True, SWITCH, {"thinking": True}),
        (False, SWITCH, {"thinking": False}),
        ("low", SWITCH, {"thinking": True, "template_kwargs": {"reasoning_effort": "low"}}),
        (True, ALWAYS, {}),
        (False, ALWAYS, {"thinking_budget_tokens": 0}),
        ("high", EFFORT, {"template_kwargs": {"reasoning_effort": "high"}}),
        (False, NEVER, {}),
    ],
)
def test_each_wish_has_its_options(think: Any, of: erllama.ChatFormat, options: dict[str, Any]) -> None:
    """As far as the model can be told."""
    assert thinking_options(think, of) == options


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    """As Ollama has it; not to think is no error there."""
    for think in (True, "low"):
        with pytest.raises(Problem) as refused:
            thinking_options(think, NEVER)
        assert refused.value.param == "think"
    assert of_prompt(True, NEVER) == {}
    assert of_prompt(False, ALWAYS) == {"thinking": True, "thinking_budget_tokens": 0}


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["chat", "generate"])
async def test_thinking_is_told_apart(path: str) -> None:
    """In `thinking`, whole and as a stream."""
    ask = {"model": "tiny", "prompt": "hello"} if path == "generate" else ASK
    text = "response" if path == "generate" else "content"

    def said(line: dict[str, Any]) -> dict[str, Any]:
        return line if path == "generate" else line["message"]

    async with served_script("<think>\nhm\n</think>\n\nyes", controls=MARKS, template=TEMPLATE) as at:
        whole = (await at.client.post(f"/api/{path}", json=ask | {"stream": False})).json()
        assert (said(whole)["thinking"], said(whole)[text]) == ("hm", "yes")
        pieces = [said(one) for one in lines((await at.client.post(f"/api/{path}", json=ask | {"think": True})).text)]
        assert "".join(one.get("thinking", "") for one in pieces) == "hm"
        assert "".join(one[text] for one in pieces) == "yes"


@pytest.mark.anyio
async def test_thinking_can_be_turned_off() -> None:
    """By the template's own switch; a generation goes on from its context in the same way."""
    async with served_script("yes", controls=MARKS, template=TEMPLATE) as at:
        await at.client.post("/api/chat", json=ASK | {"think": False, "stream": False})
        assert at.script.prompts[-1].endswith("</think>\n\n")
        first = await at.client.post(
            "/api/generate", json={"model": "tiny", "prompt": "a", "think": False, "stream": False}
        )
        assert "thinking" not in first.json()
        ask = {"model": "tiny", "prompt": "b", "think": False, "stream": False, "context": first.json()["context"]}
        again = await at.client.post("/api/generate", json=ask)
        assert again.json()["response"] == "yes"
        assert at.script.prompts[-1].count("</think>") == 2
