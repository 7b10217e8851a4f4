"""Whatever a model's reply is made of, its items and their events tell one story."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from helpers.open_responses import check, read_stream
from helpers.runtime import stub_runtime
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.responses.messages import messages_of
from erllama_py.serve.responses.output import Output, Shape
from erllama_py.serve.responses.protocol import ResponseRequest
from erllama_py.serve.responses.resource import begun
from erllama_py.serve.responses.writer import EventWriter

ANSWER = "0" * 32
TEXTS = st.lists(st.text(max_size=6), min_size=1, max_size=4)
ARGUMENTS = st.dictionaries(
    st.text(max_size=3), st.integers() | st.text(max_size=5) | st.lists(st.booleans()), max_size=3
)
STEPS = st.lists(
    st.tuples(st.just("text"), TEXTS) | st.tuples(st.just("thinking"), TEXTS) | st.tuples(st.just("call"), ARGUMENTS),
    max_size=6,
)


def told(steps: list[Any]) -> tuple[list[erllama.Event], dict[str, Any]]:
    """The events of a reply of these steps, and what is in its completion."""
    events, reply, thoughts, calls = list[erllama.Event](), "", list[str](), list[erllama.ToolCall]()
    for number, (kind, what) in enumerate(steps):
        if kind == "text":
            events += [erllama.TextDelta(text, [1]) for text in what]
            reply += "".join(what)
        elif kind == "thinking":
            events += [*(erllama.ThinkingDelta(text, [1]) for text in what), erllama.ThinkingEnd()]
            thoughts.append("".join(what))
        else:
            call = erllama.ToolCall(id=f"call_{number}", name="f", arguments=what, text="")
            events += [erllama.ToolCallDelta(call.id, "f", {}, "", [1]), erllama.ToolCallEnd(call)]
            calls.append(call)
    thinking = "\n\n".join(one for one in thoughts if one) or None
    return events, {"reply": reply, "thinking": thinking, "tool_calls": tuple(calls)}


@pytest.fixture(scope="module")
def blank() -> erllama.Completion:
    """A completion, whatever is in it."""

    async def made() -> erllama.Completion:
        async with stub_runtime() as (_, model):
            return await model.complete("x", response_tokens=1)

    return anyio.run(made)


@pytest.mark.slow
@given(STEPS, st.booleans(), st.sampled_from(["stop", "length", "cancelled", "deadline"]), st.booleans())
def test_a_stream_is_what_the_specification_says(
    blank: erllama.Completion, steps: list[Any], summary: bool, reason: Any, fails: bool
) -> None:
    """And comes to the answer; the items are the message that the reply was."""
    events, said = told(steps)
    completion = msgspec.structs.replace(blank, finish_reason=reason, **said)
    request = ResponseRequest(model="m")
    output = Output(ANSWER, Shape(summary=summary))
    writer = EventWriter(begun(f"resp_{ANSWER}", "m", request, {}), output)
    data = writer.begin() + b"".join(writer.event(event) for event in events)
    data += writer.failed(Problem("internal", "no")) if fails else writer.done(completion)
    response = check(read_stream(data.decode())[-1]["response"])
    if not fails:
        (message,) = messages_of(response["output"], None, lambda kind, sealed: "")
        expected = completion.message
        assert message["content"].strip() == expected["content"].strip()
        assert message.get("tool_calls") == expected.get("tool_calls")
        assert message.get("reasoning_content") == expected.get("reasoning_content")
