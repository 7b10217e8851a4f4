"""The machine has less memory than the budget says; a model's file takes more than it did."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.demand import MIB, Loads, config, demanded, stub
from helpers.runtime import until
from helpers.tiny_gguf import Kind, tiny_gguf

import erllama_py as erllama
from erllama_py.serve.config import ServedModel, sized
from erllama_py.serve.demand import Keeper
from erllama_py.serve.demand.fitting import explained, needed_bytes

pytestmark = pytest.mark.anyio


class Machine(Loads):
    """It has `room` MiB for what is loaded, of 60 each, whatever a budget says."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    async def __call__(self, runtime: erllama.Runtime, model: ServedModel) -> None:
        """Load it, where there is room."""
        left = self.room - 60 * len(runtime.list_models())
        if left < 60:
            self.begun.append(model.name)
            raise erllama.InsufficientMemory("/models/x.gguf", f"{left} MiB are left", 60 * MIB, left * MIB)
        await super().__call__(runtime, model)


async def test_those_that_nobody_has_go_where_the_machine_is_short_of_memory() -> None:
    """The one that was unused longest, though the budget has room for all; none is refused."""
    loads = Machine(150)
    async with demanded(config(stub("a"), stub("b"), stub("c"), room=300), loads=loads) as at:
        for name in ("a", "b", "a", "c"):
            assert (await at.chat(name)).status_code == 200
        assert [one.state for one in at.app.service.states().models] == ["loaded", "unloaded", "loaded"]
        assert (at.state("b").unloads, at.state("c").failed_loads) == ({"memory": 1}, 0)
    assert loads.begun == ["a", "b", "c", "c"]


async def test_where_none_can_go_the_error_says_what_would_help() -> None:
    """To operators, in the answer and in the list; to a client that there is too little. Nothing is unloaded for it."""
    async with demanded(config(stub("a"), stub("b", pinned=True), room=300), loads=Machine(100)) as at:
        lease = await at.app.service.served.lease("a")
        refused = await at.chat("b")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "insufficient_memory")
        assert (refused.headers["retry-after"], "MiB" in refused.text) == ("1", False)
        told = await at.client.post("/erllama/models/b/load")
        assert (told.status_code, "a smaller model, or less beside it, would help" in told.text) == (503, True)
        assert "less beside it" in (await at.client.get("/erllama/models")).json()["models"][1]["problem"]
        assert (at.state("a").state, at.state("b").loads) == ("loaded", 0)
        lease.release()


async def test_one_that_would_not_help_stays() -> None:
    """A model that is far too large unloads no other one at each of its tries."""
    async with demanded(config(stub("a"), stub("b"), room=300), loads=Machine(100)) as at:
        assert (await at.chat("a")).status_code == 200
        keeper = at.app.service.served
        assert isinstance(keeper, Keeper)

        async def large(runtime: erllama.Runtime, model: ServedModel) -> None:
            raise erllama.InsufficientMemory("/models/b.gguf", "it is large", 900 * MIB, 40 * MIB)

        keeper.loader = large
        assert (await at.chat("b")).json()["error"]["code"] == "insufficient_memory"
        assert at.state("a").state == "loaded"


def dense(tmp_path: Path, **given: Any) -> dict[str, Any]:
    """A model of a file, on demand."""
    file = {"name": "file", "path": str(tiny_gguf("dense", tmp_path)), "load": "demand", "probe": False}
    return {**file, "context_opts": {"n_ctx": 512, "n_seq_max": 1}, **given}


def test_the_error_of_a_file_has_the_context_that_fits(tmp_path: Path) -> None:
    """By what was lacking at its load."""
    large = dense(tmp_path, context_opts={"n_ctx": 65_536, "n_seq_max": 1})
    model = sized(config(large, room=300))[0].model
    half = needed_bytes(model) // 2
    said = explained(model, erllama.InsufficientMemory("f", "it is short", half, 0))
    assert "it is short: it would fit with context_opts.n_ctx = " in said.problem
    n_ctx = int(said.problem.rpartition("=")[2])
    assert 512 <= n_ctx < 65_536
    assert model.file is not None
    lost = msgspec.structs.replace(model, file=msgspec.structs.replace(model.file, path="/nowhere.gguf"))
    assert "a smaller model" in explained(lost, erllama.InsufficientMemory("f", "it is short", half, 0)).problem


def test_what_helps_a_process_that_may_not_take_enough_is_its_limit(tmp_path: Path) -> None:
    """Beside the interpreter in it nobody knows which context fits: one that was named did not."""
    bounded = {"isolation": "process", "process_opts": {"memory_bytes": 40 * MIB}}
    model = config(dense(tmp_path) | bounded).models[0]
    said = explained(model, erllama.InsufficientMemory("f", "it is short", 41 * MIB, 40 * MIB))
    helps = "a larger process_opts.memory_bytes would help, or a smaller context_opts.n_ctx"
    assert said.problem == f"it is short: {helps}"


OLD, NEW = 2_149_242, 3_245_168  # bytes that the two files take, with their contexts


def replace(file: dict[str, Any], tmp_path: Path, kind: Kind | None = "window") -> None:
    """Another model in place of a file, as by a download that is renamed; or a page about one."""
    new = tmp_path / f"new-{kind}"
    new.mkdir()
    (new / "page").write_text("<html>")
    os.replace(new / "page" if kind is None else tiny_gguf(kind, new), file["path"])


async def test_a_file_that_was_replaced_counts_with_its_own_size_from_its_next_load_on(tmp_path: Path) -> None:
    """Others go for it that fitted beside the old one."""
    file = dense(tmp_path)
    async with demanded(config(file, stub("small", 1), room=4)) as at:
        for name in ("small", "file"):
            assert (await at.chat(name)).status_code == 200
        assert (at.app.service.states().used_bytes, at.state("small").state) == (OLD + MIB, "loaded")
        at.app.service.served.unload("file")
        await until(lambda: at.state("file").state == "unloaded")
        replace(file, tmp_path)
        assert (await at.chat("file")).status_code == 200
        assert (at.app.service.states().used_bytes, at.state("small").unloads) == (NEW, {"memory": 1})
        assert at.state("file").failed_loads == 0


async def test_a_file_that_has_become_too_large_is_not_loaded(tmp_path: Path) -> None:
    """Requests for it are told so, until the file is another one and the configuration is read again."""
    file = dense(tmp_path)
    async with demanded(config(file, room=3)) as at:
        replace(file, tmp_path)
        refused = await at.chat("file")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_does_not_fit")
        replace(file, tmp_path, "dense")
        assert (await at.client.post("/erllama/reload")).json()["replaced"] == ["file"]
        assert (await at.chat("file")).status_code == 200


async def test_a_file_that_is_no_model_any_more_is_a_load_that_fails(tmp_path: Path) -> None:
    """It is what a load would say."""
    file = dense(tmp_path)
    async with demanded(config(file)) as at:
        replace(file, tmp_path, None)
        refused = await at.chat("file")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_load_failed")
        assert "a web page" in str(at.state("file").problem)


async def test_a_reload_takes_the_file_that_is_there(tmp_path: Path) -> None:
    """Its model goes when nobody has it, and comes back as the new one; one that does not fit changes nothing."""
    file = dense(tmp_path)
    async with demanded(config(file, stub("small", 1), room=4)) as at:
        assert (await at.client.post("/erllama/reload")).json()["replaced"] == []
        lease = await at.app.service.served.lease("file")
        replace(file, tmp_path)
        at.changed.append(config(file, stub("small", 1), room=3))
        told = await at.client.post("/erllama/reload")
        assert (told.status_code, "'file' takes 3.1 MiB" in told.text) == (400, True)
        assert at.state("file").state == "loaded"
        at.changed.append(config(file, stub("small", 1), room=4))
        assert (await at.client.post("/erllama/reload")).json()["replaced"] == ["file"]
        assert at.state("file").state == "unloading"
        asked = asyncio.create_task(at.chat("file"))
        await until(lambda: at.state("file").waiting == 1)
        lease.release()
        assert (await asked).status_code == 200
        assert (at.app.service.states().used_bytes, at.state("file").unloads) == (NEW, {"changed": 1})
        assert (await at.client.post("/erllama/reload")).json()["replaced"] == []


async def test_one_that_is_closing_is_looked_at_as_it_is_to_come_back(tmp_path: Path) -> None:
    """Another reload meanwhile finds nothing new."""
    file = dense(tmp_path)
    async with demanded(config(file, room=4)) as at:
        lease = await at.app.service.served.lease("file")
        replace(file, tmp_path)
        for replaced in (["file"], []):
            assert (await at.client.post("/erllama/reload")).json()["replaced"] == replaced
        lease.release()
        await until(lambda: at.state("file").state == "unloaded")
