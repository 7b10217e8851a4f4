"""Replies that follow a structure, through everything that can happen to a request: others beside it, parking, `n`,
crashes and restarts. The reply stays the one that the prompt gets alone, and follows its structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.crowd import together
from helpers.runtime import until
from helpers.tiny_gguf import Kind, tiny_gguf
from helpers.watched import Watch

import erllama_py as erllama

from .test_parking_tiny_models import KINDS, POLICY, config, prompts

pytestmark = pytest.mark.anyio

# Half of the reply is forced: runs of several tokens, of which a park can leave some to be decoded.
ENTRY = '"the letters are " [a-z]{2} ", and then came " [a-z]{3} "; "'
ENDLESS = {"grammar": f"root ::= {ENTRY} root"}
REPLY = 120

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "full_name": {"type": "string", "maxLength": 8}, "the_kind_of_person": {"enum": ["alpha", "beta"]},
        "number_of_children": {"type": "integer", "minimum": 0, "maximum": 20},
    },
    "required": ["full_name", "the_kind_of_person", "number_of_children"], "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saves", [True, False], ids=["saved", "computed again"])
async def test_parked_among_forced_tokens_a_reply_goes_on_as_if_it_had_not_been(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, saves: bool
) -> None:
    """Four requests take turns in cells for one and a half."""
    path, asked, watch = tiny_gguf(kind, folder), prompts(4), Watch(monkeypatch)
    async with erllama.Runtime() as runtime:
        options = config(path, {"min_tokens": None}) | {"scheduler": {"kept_tokens": 0}}
        model = await runtime.load_model("m", options)
        expected = [(await together(model, [prompt], ENDLESS, length=REPLY))[0] for prompt in asked]
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config(path, POLICY if saves else {"min_tokens": None}, n_seq_max=3))
        replies = await together(model, asked, *[ENDLESS] * 4, length=REPLY)
    assert [reply.generated for reply in replies] == [reply.generated for reply in expected]
    assert bool(watch.parks) == (kind != "recurrent")
    assert watch.wrong == []
    assert all(reply.stats.decodes < len(reply.generated) for reply in expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
async def test_alternatives_follow_the_structure_each_by_itself(backend: str, tmp_path: Path) -> None:
    """Each as if asked for alone, by its seed; all of them valid."""
    asked: dict[str, Any] = {"json_schema": SCHEMA, "response_tokens": 200}
    async with loaded(backend, tmp_path) as model:
        done = await model.complete("Someone:", n=3, seed=5, **asked)
        alone = [await model.complete("Someone:", seed=seed, **asked) for seed in (5, 6, 7)]
    assert [one.finish_reason for one in done.alternatives] == ["stop"] * 3
    assert all(set(json.loads(one.reply)) == {*SCHEMA["properties"]} for one in (*done.alternatives, *alone))
    if backend == "stub":
        assert [one.generated for one in done.alternatives] == [one.generated for one in alone]


async def crash(model: erllama.Model) -> None:
    """End its engine, and wait until it is back."""
    model.inject_fault("thread")
    await until(lambda: model.info.restarts == 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_crash_and_a_restart_the_reply_is_the_same(folder: Path, tmp_path: Path, kind: Kind) -> None:
    """The structure is compiled for the new model; the prompt comes from rows."""
    disk = erllama.DiskTier(tmp_path / "rows", quota_bytes=1 << 28)
    options = config(tiny_gguf(kind, folder), POLICY, n_ctx=512) | {"tier": "disk", "tier_srv": "d"}
    asked: dict[str, Any] = {"json_schema": SCHEMA, "response_tokens": 200, "temperature": 0.0}
    replies = []
    for _ in range(2):
        async with erllama.Runtime(tiers={"d": disk}) as runtime:
            model = await runtime.load_model("m", options)
            replies.append(await model.complete(prompts(1)[0], **asked))
            await crash(model)
            replies.append(await model.complete(prompts(1)[0], **asked))
    assert len({reply.reply for reply in replies}) == 1
    assert replies[0].finish_reason == "stop"
    assert set(json.loads(replies[0].reply)) == {*SCHEMA["properties"]}
