"""`erllama batch` at a server: made there once, waited for, fetched, and taken up again after whatever has ended it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.batches import jsonl, line, times
from helpers.server_process import Child, child

from erllama_py.serve.cli import batch_there, main
from erllama_py.serve.cli.remote import Remote

IDS = {f"line-{number}": 1 for number in range(12)}


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Where the file of requests is to be."""
    return tmp_path / "asked.jsonl"


def answers(path: Path) -> list[Any]:
    """The lines of a file, each of them whole."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [msgspec.json.decode(one) for one in data.splitlines()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A server of its own process."""
    with child(tmp_path_factory.mktemp("server")) as one:
        one.ready()
        yield one


@pytest.fixture
def server(shared: Child) -> Iterator[Child]:
    """The same, and no file is left there in the end."""
    yield shared
    assert shared.client.get("/v1/files").json()["data"] == []


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked again at once."""
    monkeypatch.setattr(batch_there, "LOOK_SECONDS", 0.01)


def batches(server: Child) -> int:
    """How many it has made."""
    return len(server.client.get("/v1/batches", params={"limit": 100}).json()["data"])


class Killed(BaseException):
    """The process is over."""


def tiny(count: int) -> list[dict[str, Any]]:
    """Lines for the model of the server."""
    return [line(number) for number in range(count)]


@pytest.mark.slow
@pytest.mark.usefixtures("prompt")
def test_a_file_is_answered_by_a_server(server: Child, asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its answers are here at the end, and nothing is left there."""
    asked.write_bytes(jsonl([*tiny(12), line(12, model="nothing")]))
    assert main(["batch", str(asked), "--server", server.url, "--json"]) == 1
    printed = capsys.readouterr()
    told = msgspec.json.decode(printed.out)
    assert (told["total"], told["completed"], told["failed"]) == (13, 12, 1)
    assert times(answers(Path(told["output"]))) == IDS
    assert times(answers(Path(told["errors"]))) == {"line-12": 1}
    assert "1 of 13 lines failed" in printed.err
    assert not asked.with_name("asked.out.jsonl.journal").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("prompt")
def test_a_file_that_a_server_refuses(server: Child, asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same words as here."""
    asked.write_bytes(jsonl(tiny(2)) + b"{\n")
    assert main(["batch", str(asked), "--server", server.url]) == 1
    assert f"erllama: {asked}, line 3: the line is no JSON" in capsys.readouterr().err
    assert os.listdir(asked.parent).count("asked.out.jsonl.journal") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("prompt")
def test_the_same_command_waits_again_for_a_server(
    server: Child, asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted, it leaves the batch at work there, and finds it again: it is not made twice."""
    asked.write_bytes(jsonl(tiny(12)))
    before = batches(server)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_there, "wait", interrupted)
        with pytest.raises(SystemExit, match="130"):
            main(["batch", str(asked), "--server", server.url])
    assert "the same command waits for it again" in capsys.readouterr().err
    assert main(["batch", str(asked), "--model", "smollm2.gguf"]) in (1, 2)
    assert main(["batch", str(asked), "--server", server.url]) == 0
    assert times(answers(asked.with_name("asked.out.jsonl"))) == IDS
    assert batches(server) == before + 1


@pytest.mark.slow
@pytest.mark.usefixtures("prompt")
def test_a_batch_at_a_server_is_cancelled(
    server: Child, asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with the answers that are there, which are fetched. One that is over is fetched as it is."""
    asked.write_bytes(jsonl(line(number, max_tokens=1000, ignore_eos=True) for number in range(500)))
    assert main(["batch", str(asked), "--server", server.url, "--cancel"]) == 2
    assert "there is no batch to cancel" in capsys.readouterr().err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_there, "wait", interrupted)
        with pytest.raises(SystemExit, match="130"):
            main(["batch", str(asked), "--server", server.url])
    assert "with --cancel it ends it" in capsys.readouterr().err
    assert main(["batch", str(asked), "--server", server.url, "--cancel", "--json"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told["status"] == "cancelled"
    assert told["completed"] < 500
    assert not asked.with_name("asked.out.jsonl.journal").exists()


def test_a_server_that_is_not_there(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, and nothing is left beside the file."""
    asked.write_bytes(jsonl(tiny(1)))
    assert main(["batch", str(asked), "--server", "http://127.0.0.1:1"]) == 1
    assert "no answer from" in capsys.readouterr().err
    assert os.listdir(asked.parent) == ["asked.jsonl"]


@pytest.mark.slow
@pytest.mark.usefixtures("prompt")
def test_a_batch_at_a_server_is_killed_at_each_call(
    server: Child, asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Right after the server has done what was asked. The same command goes on: one batch is made, and each of its
    lines is there once, also where the server has deleted its files already."""
    asked.write_bytes(jsonl(tiny(12)))
    before = batches(server)
    json, post, kills = Remote.json, Remote.post, 0
    left = {"POST /v1/batches": 1, "DELETE": 2}

    def killed(what: str, answer: Any) -> Any:
        nonlocal kills
        if left.get(what, 0):
            left[what] -= 1
            kills += 1
            raise Killed
        return answer

    monkeypatch.setattr(Remote, "json", lambda *at, **given: killed(at[1], json(*at, **given)))
    monkeypatch.setattr(Remote, "post", lambda *at: killed(f"POST {at[1]}", post(*at)))
    while True:
        try:
            code = main(["batch", str(asked), "--server", server.url])
        except Killed:
            continue
        break
    assert (code, kills) == (0, 3)
    assert times(answers(asked.with_name("asked.out.jsonl"))) == IDS
    assert batches(server) == before + 1
    assert sorted(os.listdir(asked.parent)) == ["asked.jsonl", "asked.out.jsonl"]


@pytest.mark.slow
@pytest.mark.usefixtures("prompt")
def test_a_batch_that_a_server_refuses_leaves_nothing(
    server: Child, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither here nor there."""
    asked.write_bytes(jsonl([line(0, url="/v1/images")]))
    assert main(["batch", str(asked), "--server", server.url]) == 1
    assert "endpoint: expected one of" in capsys.readouterr().err
    assert os.listdir(asked.parent) == ["asked.jsonl"]
