"""The FastAPI example as a server of its own: SIGTERM saves what is not saved yet, and the next one is warm.

There is no buffer for a row until the signal comes, so whatever is on the disk afterwards was saved because of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from helpers.project import TOP

SERVER = """
import sys, uvicorn
from docs.examples.fastapi_app import create_app
from erllama_py.buffers import BufferPool
config = {"backend": "stub", "stub": {"seconds_per_token": 0.002}, "context_opts": {"n_batch": 16}}
app = create_app({**config, "policy": {"min_tokens": 32}}, sys.argv[1])
server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
take, startup = BufferPool.take, server.startup
BufferPool.take = lambda pool, nbytes: take(pool, nbytes) if server.should_exit else None
async def told(sockets=None):
    await startup(sockets)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
server.startup = told
server.run()
"""


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server in a process of its own, and where it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)], cwd=TOP, text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_a_server_that_is_asked_to_stop_saves_its_state(tmp_path: Path) -> None:
    """It ends by itself, its rows are there, and a new one answers the same from them."""
    body = {"prompt": "x" * 100, "options": {"temperature": 0.0, "response_tokens": 20}}
    rows, answers = tmp_path / "kvc" / "rows", []
    for _ in range(2):
        before = len(list(rows.iterdir())) if rows.exists() else 0
        with served(tmp_path / "kvc") as (process, url):
            answers.append(httpx.post(f"{url}/complete", json=body, timeout=60).json())
            assert len(list(rows.iterdir())) == before
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, -signal.SIGTERM)  # uvicorn raises the signal again once it is done
        assert list(rows.iterdir())
    assert (answers[0]["reused"], answers[1]["reused"]) == (0, 99)
    assert answers[0]["reply"] == answers[1]["reply"]
