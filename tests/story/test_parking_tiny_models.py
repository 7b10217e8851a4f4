"""Parking through llama.cpp, on tiny random GGUFs of every kind of memory: a parked request goes on as if it had not
been.

Weights and cells are in 32 bits and attention is computed without shortcuts, so that a reply does not depend on who
shares a batch with it; each must be, token for token, the one that the prompt gets alone.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.crowd import together
from helpers.stages import requests
from helpers.tiny_gguf import Kind, tiny_gguf
from helpers.watched import GUARD_SECONDS, Watch

import erllama_py as erllama

pytestmark = pytest.mark.anyio

KINDS: tuple[Kind, ...] = ("dense", "window", "recurrent", "hybrid")
EXACT: dict[str, Any] = {"flash_attn": False, "type_k": "f32", "type_v": "f32", "n_threads": 1}
CELLS, REPLY = 256, 120  # each request needs 160 cells: two do not fit
POLICY: dict[str, Any] = {
    "min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4, "continued_interval": 24,
}  # fmt: skip
ENDLESS = {"grammar": "root ::= [a-z ] root"}  # without it replies of random weights end anywhere


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def config(path: Path, policy: dict[str, Any], **context: Any) -> Any:
    sizes = {"n_ctx": CELLS, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 32, **EXACT}
    return {"model_path": path, "context_opts": sizes | context, "policy": policy}


def prompts(count: int) -> list[list[int]]:
    """Token ids that begin differently."""
    return [[(7 * number + 3 * place * place + 11) % 250 for place in range(40)] for number in range(count)]


async def alone(path: Path, asked: list[list[int]]) -> list[erllama.Completion]:
    """Each by itself, in a context of its own size that keeps nothing."""
    async with erllama.Runtime() as runtime:
        options = config(path, {"min_tokens": None}) | {"scheduler": {"kept_tokens": 0}}
        model = await runtime.load_model("m", options)
        return [(await together(model, [prompt], ENDLESS, length=REPLY))[0] for prompt in asked]


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saves", [True, False], ids=["saved", "computed again"])
async def test_replies_that_do_not_fit_together_are_those_of_each_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, saves: bool
) -> None:
    """Six requests take turns in cells for one and a half."""
    path, asked, watch = tiny_gguf(kind, folder), prompts(6), Watch(monkeypatch)
    expected = await alone(path, asked)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config(path, POLICY if saves else {"min_tokens": None}, n_seq_max=4))
        replies = await together(model, asked, *[ENDLESS] * 6, length=REPLY)
    assert [reply.generated for reply in replies] == [reply.generated for reply in expected]
    assert bool(watch.parks) == (kind != "recurrent")
    assert watch.wrong == []


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_higher_priority_takes_the_place_of_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """A recurrent state is parked for its sequence alone: its cells are always enough."""
    path, asked, watch = tiny_gguf(kind, folder), prompts(3), Watch(monkeypatch)
    expected = await alone(path, asked)
    options = config(path, POLICY, n_seq_max=2, n_ctx=1024)
    all_are_there = threading.Event()  # the engine goes on then: neither may end before the third comes
    watch.on_tick = lambda: all_are_there.wait(GUARD_SECONDS)
    watch.see = lambda model_id, state: all_are_there.set() if len(requests(state)) == len(asked) else None
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", options)
        first = asyncio.create_task(together(model, asked[:2], ENDLESS, ENDLESS, length=REPLY))
        await watch.once(lambda: watch.stages() == ["working"] * 2)
        (above,) = await together(model, asked[2:], ENDLESS | {"priority": 1}, length=REPLY)
        replies = [*await first, above]
    assert [reply.generated for reply in replies] == [reply.generated for reply in expected]
    parks = [reply.stats.parks for reply in replies]  # their structures are checked on threads: either may come first
    assert (sorted(parks[:2]), parks[2]) == ([0, 1], 0)
    assert watch.wrong == []
