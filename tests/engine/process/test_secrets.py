"""What a process is not told: it needs no secret, so none is sent to it."""

from __future__ import annotations

import os
import signal
from typing import Any, get_args, get_type_hints

import pytest
from helpers.runtime import until

import erllama_py as erllama
from erllama_py.engine.process import spare as spares
from erllama_py.engine.process.wire import channel, frames
from erllama_py.options.check import SECRETS
from erllama_py.options.model import ModelConfig, for_engine, parse_model_config

pytestmark = pytest.mark.anyio

HIDDEN = "not for children"
OF_A_MODEL = sorted(SECRETS & set(ModelConfig.__struct_fields__))
CONFIG: Any = {
    "backend": "stub", "isolation": "process", "spare": True, **{name: f"{HIDDEN}: {name}" for name in OF_A_MODEL},
}  # fmt: skip


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The bytes of all frames that are sent, by their kinds."""
    found: dict[str, bytes] = {}

    def encode(frame: frames.Frame) -> bytes:
        data = frames.encode(frame)
        kind = type(frame).__name__
        found[kind] = found.get(kind, b"") + data
        return data

    monkeypatch.setattr(channel, "encode", encode)
    monkeypatch.setattr(spares, "FILL_SECONDS", 0.0)
    return found


async def test_no_secret_is_in_a_frame(sent: dict[str, bytes]) -> None:
    """Of an engine, one over the weights of a spare, a companion, an embedder, a spare; nor in their jobs."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", CONFIG)
        slot: Any = model._board.spare
        await until(lambda: slot.pid is not None)
        first = model.info.pid
        os.kill(first or 0, signal.SIGKILL)
        await until(lambda: model.info.pid not in (None, first))
        await model.complete("hello", response_tokens=2, reproducible=True, cache_salt=f"{HIDDEN}: of a request")
        await model.embed("hello")
    assert sent.keys() >= {"StartEngine", "HoldWeights", "StartEmbedder", "Jobs", "Compute"}
    assert sent["StartEngine"].count(b"load_seconds") == 3
    assert {kind for kind, data in sent.items() if HIDDEN.encode() in data} == set()


def test_each_secret_of_a_configuration_is_left_out() -> None:
    """Whichever there are; without that they would be sent."""
    assert OF_A_MODEL == ["cache_salt", "thinking_signing_key"]
    config = parse_model_config(CONFIG)
    engine: dict[str, Any] = {"engine": 1, "model_id": "m", "path": None}
    assert frames.encode(frames.HoldWeights(**engine, config=config)).count(HIDDEN.encode()) == len(OF_A_MODEL)
    assert HIDDEN.encode() not in frames.encode(frames.HoldWeights(**engine, config=for_engine(config)))


def test_two_frames_have_a_configuration() -> None:
    """Another one that had it would need a test here."""
    with_one = {kind.__name__ for kind in get_args(frames.Frame) if ModelConfig in get_type_hints(kind).values()}
    assert with_one == {"StartEngine", "HoldWeights"}
