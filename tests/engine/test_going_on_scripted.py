"""A reply with thinking, calls, characters of several bytes and half a stop sequence goes on wherever it is cut off."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from helpers.engine import generate
from helpers.lives import Life, drawn, end, places, shown, texts, told
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.segments import Markers
from erllama_py.engine.backend import ModelFacts
from erllama_py.engine.jobs import EndThinking, Generate, Report
from erllama_py.engine.stub_script import Script, ScriptedBackend
from erllama_py.options.model import parse_model_config
from erllama_py.options.sampling import Sampling

SAID = (
    "<think>é: 日本, and more.</think>\n\nThen a ST, 😀 and <tool_call>{\"text\": \"</tool_call>\"}</tool_call>\n"
    "<think>again é</think>more of it, x STILL goes x STOP and is never said"
)  # fmt: skip
PROMPT = [*b"a prompt"]
Loaded = tuple[ScriptedBackend, ModelFacts]


def backend_of(script: Script) -> ScriptedBackend:
    """One that says it."""
    fields = {"backend": "stub", "context_opts": {"n_ctx": 1024, "n_batch": 64, "n_ubatch": 32, "n_seq_max": 2}}
    return ScriptedBackend("scripted", parse_model_config(fields), script)


@pytest.fixture(scope="module")
def engine() -> Iterator[Loaded]:
    """It says the same to every request."""
    backend = backend_of(Script({"": SAID}))
    yield backend, backend.load(lambda done: True)
    backend.close()


def job(engine: Loaded, budget: int | None, *, logprobs: bool = False, special: bool = False) -> Generate:
    markers = Markers(
        thinking=("<think>", "</think>"), calls=("<tool_call>",), call_end="</tool_call>", call_quotes='"',
        closing=tuple(b" Enough.</think>"), budget=budget,
    )  # fmt: skip
    return generate(
        1, PROMPT, max_new_tokens=400, stream=True, markers=markers, stop_sequences=("x STOP", "x STILL x"),
        report=Report(logprobs=1 if logprobs else None, special=special), sampling=Sampling(seed=3),
    )  # fmt: skip


@given(cut=st.integers(0, 400), budget=st.sampled_from([None, 0, 3, 9, 21, 40]), logprobs=st.booleans())
def test_a_reply_in_segments_goes_on_as_if_nothing_had_happened(
    engine: Loaded, cut: int, budget: int | None, logprobs: bool
) -> None:
    """Within markers and characters, within what closes its thinking, and however much of its budget is spent."""
    one = job(engine, budget, logprobs=logprobs)
    whole = Life(*engine).run(one)
    heard = texts(whole)
    at = places(heard)[cut % len(places(heard))]
    again = Life(*engine).run(msgspec.structs.replace(one, drawn=drawn(heard[:at])))
    assert told(end(again)) == told(end(whole))
    assert shown([*heard[:at], *texts(again)]) == shown(heard)
    assert end(whole).stop_sequence == "x STOP"
    assert end(whole).calls == ('<tool_call>{"text": "</tool_call>"}</tool_call>',)


@given(ends=st.integers(0, 40), cut=st.integers(0, 400), budget=st.sampled_from([None, 30]))
def test_thinking_that_was_to_end_ends_in_the_next_life(
    engine: Loaded, ends: int, cut: int, budget: int | None
) -> None:
    """Whether the engine knew of it before, or only the caller's side."""
    one, counts = job(engine, budget), list[int]()
    life = Life(*engine)
    whole = life.run(one, then={ends: EndThinking(1)}, noting=lambda: counts.append(len(texts(life.outcomes))))
    heard = texts(whole)
    later = [place for place in places(heard) if counts and place >= counts[0] > 0]
    if not later:
        return
    at = later[cut % len(later)]
    before = drawn(heard[:at])
    assert before is not None
    if at == counts[0]:  # it was asked for after the last text
        before = msgspec.structs.replace(before, end_thinking=True)
    again = Life(*engine).run(msgspec.structs.replace(one, drawn=before))
    seen = shown([*heard[:at], *texts(again)])
    if at > counts[0]:  # else a token that nobody was told of may come before what closes it
        assert told(end(again)) == told(end(whole))
        assert seen == shown(heard)
    assert [kind for kind, _, _ in seen] == [kind for kind, _, _ in shown(heard)]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_script_goes_on_where_it_was(fresh: bool) -> None:
    """With the reply of that request, whichever came before; the next one is for the next request."""
    script = Script("first of all", "second of all", "third of all")
    backend = backend_of(script)
    facts = backend.load(lambda done: True)
    Life(backend, facts).run(generate(1, PROMPT, max_new_tokens=50))
    second = generate(2, PROMPT, max_new_tokens=50, stream=True)
    heard = texts(Life(backend, facts).run(second))
    if fresh:
        backend.close()
        backend = backend_of(Script("first of all", "second of all", "third of all"))
        backend.load(lambda done: True)
    again = Life(backend, facts).run(msgspec.structs.replace(second, drawn=drawn(heard[:5])))
    assert end(again).text == "second of all"
    assert "".join(text.text for text in texts(again)) == "d of all"
    assert end(Life(backend, facts).run(generate(3, PROMPT, max_new_tokens=50))).text == "third of all"
    backend.close()
