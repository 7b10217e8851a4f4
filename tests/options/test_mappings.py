"""Options as mappings: type checkers know of them what the structs say, and `mypy --strict` holds callers to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any, Literal, get_type_hints

import msgspec
import pytest
from helpers.project import TOP, fenced
from mypy import api

import erllama_py as erllama
from erllama_py.options.request import merged
from erllama_py.options.sampling import SamplerName

# The mapping of a struct is named after it. What a mapping may hold beside what its struct holds, by field:
WIDER: dict[str, object] = {
    "RequestOptions.stop_sequences": str | list[str] | tuple[str, ...],
    "RequestOptions.stop_token_ids": list[int] | tuple[int, ...],
    "RequestOptions.choice": list[str] | tuple[str, ...] | None,
    "RequestOptions.keep": Sequence[erllama.KeepDict | erllama.Keep],
    "RequestOptions.parent_key": bytes | str | None,
    "RequestOptions.dry_sequence_breakers": list[str] | tuple[str, ...],
    "RequestOptions.logit_bias": Mapping[Any, float],  # a dict of ids is no dict of ids or texts to a checker
    "RequestOptions.template_kwargs": Mapping[str, Any],
    "RequestOptions.thinking_markers": list[str] | tuple[str, str] | Literal[False] | None,
    "ModelConfig.thinking_markers": list[str] | tuple[str, str] | None,
    "ModelConfig.thinking_signing_key": bytes | str | None,
    "RequestOptions.samplers": list[SamplerName] | tuple[SamplerName, ...],
    "ModelConfig.model_path": str | os.PathLike[str] | None,
    "ModelConfig.model_opts": erllama.ModelOptsDict | erllama.ModelOpts,
    "ModelConfig.context_opts": erllama.ContextOptsDict | erllama.ContextOpts,
    "ModelConfig.policy": erllama.PolicyOptsDict | erllama.PolicyOpts,
    "ModelConfig.scheduler": erllama.SchedulerOptsDict | erllama.SchedulerOpts,
    "ModelConfig.process_opts": erllama.ProcessOptsDict | erllama.ProcessOpts,
    "ModelConfig.restarts": erllama.RestartOptsDict | erllama.RestartOpts,
    "ModelConfig.stub": erllama.StubOptsDict | erllama.StubOpts,
    "ModelConfig.fingerprint": str | bytes | None,
    "ModelConfig.ctx_params_hash": str | bytes | None,
    "ProcessOpts.cpus": list[int] | tuple[int, ...] | None,
    "ModelOpts.tensor_split": list[float] | tuple[float, ...] | None,
    "StubOpts.replies": list[str] | tuple[str, ...] | dict[str, str],
    "PressureOpts.evict_tiers": list[str] | tuple[str, ...],
    "PressureOpts.source": get_type_hints(erllama.PressureOptsDict)["source"],  # the struct leaves it to its parser
}
STRUCTS: list[type[msgspec.Struct]] = [
    erllama.RequestOptions, erllama.ScoreOptions, erllama.ModelConfig, erllama.ModelOpts, erllama.ContextOpts,
    erllama.PolicyOpts, erllama.SchedulerOpts, erllama.StubOpts, erllama.PressureOpts, erllama.RestartLimits,
    erllama.Keep, erllama.ProcessOpts, erllama.RestartOpts,
]  # fmt: skip


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_a_mapping_has_the_names_and_types_of_its_struct(struct: type[msgspec.Struct]) -> None:
    """So that an option which is added to the one cannot be forgotten in the other."""
    fields = {
        name: WIDER.get(f"{struct.__name__}.{name}", kind)
        for name, kind in get_type_hints(struct).items()
        if name in struct.__struct_fields__
    }
    assert get_type_hints(getattr(erllama, f"{struct.__name__}Dict")) == fields


def test_a_turn_takes_what_a_request_takes_but_for_its_session() -> None:
    """A session has its id and its tools, and goes on from one reply; everything else can be given to a turn."""
    hints = get_type_hints(erllama.RequestOptionsDict)
    del hints["session_id"], hints["n"], hints["tools"], hints["continue_final_message"]
    assert get_type_hints(erllama.TurnOptionsDict) == hints


@pytest.mark.parametrize("kind", [erllama.DiskTier, erllama.RamFileTier])
def test_the_mapping_of_a_tier_has_the_fields_of_every_kind(kind: type[msgspec.Struct]) -> None:
    """And the kind."""
    assert set(get_type_hints(erllama.TierDict)) == {"kind", *kind.__struct_fields__}


def test_keywords_override_a_struct_and_a_mapping() -> None:
    """What the struct leaves at its default is not given by it, so that a session's own options stand."""
    options = erllama.RequestOptions(temperature=0.0, response_tokens=5)
    assert merged(options, {"response_tokens": 7}) == {"temperature": 0.0, "response_tokens": 7}
    assert merged(None, {"seed": 1}) == {"seed": 1}
    assert merged({"temperature": 0.8, "seed": 2}, {"seed": 1}) == {"temperature": 0.8, "seed": 1}
    with pytest.raises(erllama.InvalidOption, match="expected a mapping or RequestOptions, got list"):
        merged(["seed"], {})


@pytest.mark.anyio
async def test_every_call_takes_a_struct_or_a_mapping_of_options() -> None:
    """By handle, by id and in a session; all of them check it as they check keywords."""
    short = erllama.RequestOptions(temperature=0.0, response_tokens=3)
    wrong = erllama.RequestOptions(temperature=-1.0)
    messages = [{"role": "user", "content": "hello"}]
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        session = model.session()
        asked: list[Any] = [
            lambda options: model.complete("hello", options=options, seed=1),
            lambda options: runtime.complete("m", "hello", options=options, seed=1),
            lambda options: model.chat(messages, options=options, seed=1),
            lambda options: session.chat("hello", options=options, seed=1),
            lambda options: session.complete("hello", options=options, seed=1),
        ]
        for ask in asked:
            for given in (short, {"temperature": 0.0, "response_tokens": 3}):
                done = await ask(given)
                assert (len(done.generated), done.stats.seed) == (3, 1)
            for given in (wrong, {"temperature": -1.0}):
                with pytest.raises(erllama.InvalidOption, match="temperature"):
                    await ask(given)
        for stream in (model.stream("hello", options=short), session.stream("hello", options=short)):
            async with stream as events:
                assert len("".join([text async for text in events.text])) > 0
        assert (await model.prefill_only("hello", options=short)).generated == []


SNIPPET = """
import json
from pathlib import Path

import erllama_py as erllama


async def calls(runtime: erllama.Runtime, model: erllama.Model, session: erllama.Session) -> None:
    {line}
"""
GOOD = [
    'reply: str = (await model.complete("hello", temperature=0.0, stop_sequences="END", parent_key=b"")).reply',
    'await runtime.complete("m", [1, 2], response_tokens=3, options=erllama.RequestOptions(seed=1))',
    'await session.chat("hello", top_k=1)',
    'ids: dict[int, float] = {5: 1.0}; await model.complete("hello", logit_bias=ids)',
    'await session.chat("hello", samplers=["top_k", "temperature"], logit_bias={5: -100.0, " the": 1.0})',
    'await session.chat("hello", options={"top_k": 1})',
    'await runtime.complete("m", "hello", options={"stop_sequences": "END"})',
    'await model.prefill_only("hello", cache_salt="alice")',
    'model = await runtime.load_model("m", {"model_path": Path("a.gguf"), "context_opts": {"n_ctx": 64}})',
    'await runtime.load_model(erllama.ModelConfig(model_path=Path("a.gguf"), policy=erllama.PolicyOpts(min_tokens=1)))',
    'await runtime.load_model("m", erllama.ModelConfig(**json.loads("{}")))',
    'await runtime.load_model("m", {"policy": erllama.PolicyOpts(), "scheduler": {"turn_ms": 5}})',
    'erllama.Runtime(policy={"min_tokens": 5}, pressure={"source": "system"})',
    'erllama.Runtime(tiers={"d": {"kind": "disk", "root": "."}, "e": erllama.RamFileTier("/dev/shm/rows")})',
    'await runtime.start_tier("d", erllama.DiskTier(Path(".")))',
    'event: erllama.Event = await anext(runtime.stream("m", "hello"))',
    'text: str = await anext(model.stream("hello", seed=1).text)',
    'phase: str = runtime.phase(model)',
    'await runtime.end_session("m", "s")',
]  # fmt: skip
BAD = [
    ('await model.complete("hello", temprature=0.5)', '"temprature" for "complete"'),
    ('await model.complete("hello", temperature="hot")', '"temperature" to "complete"'),
    ('await runtime.complete("m", "hello", temprature=0.5)', '"temprature"'),
    ('await runtime.complete("m", "hello", temperature="hot")', '"temperature"'),
    ('model.stream("hello", priority="high")', '"priority" to "stream"'),
    ('await model.chat([], seed="x")', '"seed" to "chat"'),
    ('model.stream_chat([], deadlines=1)', '"deadlines" for "stream_chat"'),
    ('await model.prefill_only("hello", cache_slat="x")', '"cache_slat" for "prefill_only"'),
    ('await session.chat("hello", session_id="other")', '"session_id" for "chat"'),
    ('await model.complete("hello", options={"temprature": 0.5})', "incompatible type"),
    ('await session.complete("hello", top_p="x")', '"top_p" to "complete"'),
    ('await runtime.load_model("m", {"model_pth": "a.gguf"})', "incompatible type"),
    ('await runtime.load_model("m", {"context_opts": {"n_ctx": "big"}})', "incompatible type"),
    ('erllama.Runtime(policy={"min_token": 5})', "incompatible type"),
    ('runtime.phase()', "Too few arguments"),
    ('reply: int = (await runtime.complete("m", "hello")).reply', "Incompatible types in assignment"),
]  # fmt: skip


# What is copied first. Other pages reuse a name for another thing, or leave out that a result may be None.
PAGES = [TOP / "README.md", *(TOP / "docs" / "guides" / name for name in ("getting-started.md", "scores.md"))]


def as_function(page: Path) -> str:
    """The blocks of a page as a type checker can read them: what they await is in a function."""
    blocks = [text for above, text, _ in fenced(page, "python") if not above.startswith("<!--")]
    return "async def page() -> None:\n" + indent("\n".join(blocks), "    ")


@pytest.mark.slow
def test_mypy_lets_good_calls_through_and_refuses_each_bad_one(tmp_path: Path) -> None:
    """A misspelt or mistyped option is an error before anything runs, wherever options are given."""
    lines = [*GOOD, *(line for line, _ in BAD)]
    files = [tmp_path / f"snippet_{number}.py" for number in range(len(lines))]
    pages = [tmp_path / f"page_{number}.py" for number in range(len(PAGES))]
    for file, line in zip(files, lines, strict=True):
        file.write_text(SNIPPET.format(line=line))
    for file, page in zip(pages, PAGES, strict=True):
        file.write_text(as_function(page))
    cache = f"--cache-dir={tmp_path / 'cache'}"
    said, _, _ = api.run(["--strict", "--no-error-summary", "--hide-error-context", cache, *map(str, [*files, *pages])])
    assert [text for text in said.splitlines() if "/page_" in text] == []
    complaints = [[text for text in said.splitlines() if f"/{file.name}:" in text] for file in files]
    assert dict(zip(GOOD, complaints, strict=False)) == {line: [] for line in GOOD}
    for (line, words), found in zip(BAD, complaints[len(GOOD) :], strict=True):
        assert any(words in text for text in found), (line, found)
