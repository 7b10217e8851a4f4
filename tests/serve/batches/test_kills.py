"""Batches in processes that are killed, told to end, and restarted: each line is answered once, and no line is torn."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import jsonl, times
from helpers.served import lines
from helpers.warm_server import WarmServer, warm_server

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("ERLLAMA_KILLS", "5"))
TOTAL = 500
LINE_BYTES = 350  # of an answer, at least
URL = "/v1/completions"


def line(number: int) -> dict[str, Any]:
    """A prompt, and two tokens."""
    body = {"model": "tiny", "prompt": f"{number}", "max_tokens": 2, "ignore_eos": True}
    return {"custom_id": f"line-{number}", "method": "POST", "url": URL, "body": body}


def begin(server: WarmServer, total: int) -> str:
    """A batch of so many lines; its id."""
    data = jsonl(map(line, range(total)))
    file = server.client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)}).json()
    ask = {"input_file_id": file["id"], "endpoint": URL, "completion_window": "24h"}
    made: str = server.client.post("/v1/batches", json=ask).json()["id"]
    return made


def over(server: WarmServer, batch: str) -> dict[str, Any]:
    """The batch at its end."""
    while True:
        answer = server.client.get(f"/v1/batches/{batch}")
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 200 and (now := answer.json())["status"] == "completed":
            found: dict[str, Any] = now
            return found
        server.goes_on()


def outputs(folder: Path) -> list[Path]:
    """The files of answers that are being written."""
    return [path for path in folder.glob("*/*.data") if not path.with_suffix(".json").exists()]


def until(server: WarmServer, folder: Path, count: int) -> None:
    """Wait for so many answers in the output, without asking the server, whose time is short."""
    while sum(path.stat().st_size for path in outputs(folder)) < count * LINE_BYTES:
        server.goes_on()


def written(folder: Path) -> bytes:
    """The whole lines of the output so far."""
    data = b"".join(path.read_bytes() for path in outputs(folder))
    return data[: data.rfind(b"\n") + 1]


def test_a_batch_is_killed_at_random_and_each_line_is_answered_once(tmp_path: Path) -> None:
    """What was answered before a kill is not asked again: it is the beginning of what is there at the end."""
    folder, batch, before = tmp_path / "files", "", b""
    tables: Any = {"server": {"port": 0, "files_directory": str(folder)}}
    for moment in sorted(random.Random(17).sample(range(1, TOTAL - 50), KILLS)):
        with warm_server(tmp_path, most=moment + 30, **tables) as server:
            batch = batch or begin(server, TOTAL)
            until(server, folder, moment)
            server.process.kill()
            assert server.ended() == -signal.SIGKILL
        now = written(folder)
        assert now.startswith(before)
        before = now
    with warm_server(tmp_path, **tables) as server:
        found = over(server, batch)
        content = server.client.get(f"/v1/files/{found['output_file_id']}/content").content
    assert found["request_counts"] == {"total": TOTAL, "completed": TOTAL, "failed": 0}
    assert content.startswith(before)
    assert before
    assert times(lines(content.decode())) == {f"line-{number}": 1 for number in range(TOTAL)}


def test_a_batch_goes_on_where_a_server_was_told_to_end(tmp_path: Path) -> None:
    """The lines at work end, no other is begun, and the process ends by itself."""
    folder = tmp_path / "files"
    tables: Any = {"server": {"port": 0, "files_directory": str(folder)}}
    with warm_server(tmp_path, most=60, **tables) as server:
        batch = begin(server, 100)
        until(server, folder, 30)
        server.process.terminate()
        assert server.ended() == 0
    before = written(folder)
    assert 20 <= before.count(b"\n") < 100
    with warm_server(tmp_path, **tables) as server:
        found = over(server, batch)
        content = server.client.get(f"/v1/files/{found['output_file_id']}/content").content
    assert content.startswith(before)
    assert times(lines(content.decode())) == {f"line-{number}": 1 for number in range(100)}
