"""What a model thinks, as OpenAI's clients see it."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.scripted import Script
from helpers.served import events, served

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: "
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LEVELS = "{% for m in messages %}{{ m['content'] }}{% endfor %}[{{ reasoning_effort | default('none') }}]"


def script(*replies: str, template: str = TEMPLATE) -> Script:
    """A model that thinks."""
    return Script(*replies, controls=("<think>", "</think>"), template=template)


async def test_thinking_is_told_apart() -> None:
    """Whole and as a stream, and its tokens are counted."""
    async with served(script=script("<think>\nhm, so\n</think>\n\nyes")) as at:
        whole = (await at.client.post(PATH, json=ASK)).json()
        message = whole["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("hm, so", "yes")
        more = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last, _ = events((await at.client.post(PATH, json=ASK | more)).text)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(one.get("reasoning_content", "") for one in deltas) == "hm, so"
        assert "".join(one.get("content", "") for one in deltas) == "yes"
        assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
        assert last["usage"]["completion_tokens_details"] == whole["usage"]["completion_tokens_details"]
        assert 6 <= last["usage"]["completion_tokens_details"]["reasoning_tokens"] < last["usage"]["completion_tokens"]


async def test_effort_is_a_switch() -> None:
    """Where the model has one; where it has none the request goes on."""
    model = script("<think>hm</think>yes")
    async with served(script=model) as at:
        for effort, off in (("none", True), ("minimal", True), ("low", False), ("high", False)):
            answer = await at.client.post(PATH, json=ASK | {"reasoning_effort": effort, "max_tokens": 4})
            assert answer.status_code == 200
            assert model.prompts[-1].endswith("</think>\n\n") == off
        both = {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}, "max_tokens": 4}
        assert (await at.client.post(PATH, json=ASK | both)).status_code == 200
        assert model.prompts[-1].endswith("</think>\n\n")
        answer = await at.client.post(PATH, json=ASK | {"reasoning_effort": "much"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")
    plain = script("yes", template=LEVELS)
    async with served(script=plain) as at:
        for effort in ("none", "low"):
            assert (await at.client.post(PATH, json=ASK | {"reasoning_effort": effort})).status_code == 200
            assert plain.prompts[-1].endswith(f"[{effort}]")


async def test_what_was_thought_comes_back() -> None:
    """In the next turn, under its name or an older one, or as something else, which is ignored."""
    async with served(script=script("<think>hm</think>yes")) as at:
        for more in ({"reasoning_content": "hm"}, {"reasoning": "hm"}, {"reasoning": {"effort": "low"}}, {}):
            messages = [*ASK["messages"], {"role": "assistant", "content": "yes"} | more, *ASK["messages"]]
            assert (await at.client.post(PATH, json=ASK | {"messages": messages})).status_code == 200
