"""llama-server beside ours: a process of its own, asked over HTTP by the same clients.

Only where the variable `LLAMA_SERVER` names its executable.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 120


class Server:
    """A llama-server that runs."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def stream(self, tokens: Sequence[int], count: int) -> AsyncIterator[int]:
        """For each piece of the reply, how many tokens it has."""
        asked = {
            "prompt": list(tokens), "n_predict": count, "temperature": 0.0, "stream": True, "cache_prompt": True,
            "return_tokens": True,
        }  # fmt: skip
        body = json.dumps(asked).encode()
        head = "POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status = await reader.readline()
            if b" 200 " not in status:
                raise RuntimeError(f"llama-server answered {status.decode().strip()}")
            async for line in reader:  # the sizes of chunks stand between the events
                if line.startswith(b"data: "):
                    yield len(json.loads(line.removeprefix(b"data: "))["tokens"])
        finally:
            writer.close()


@contextmanager
def server(model: Path, n_ctx: int, n_threads: int, n_streams: int) -> Iterator[Server | None]:
    """Start one, and end it with the block; None where there is none."""
    executable = os.environ.get("LLAMA_SERVER")
    if executable is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [
        executable, "--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(n_ctx),
        "--threads", str(n_threads), "--parallel", str(n_streams), "--kv-unified", "--batch-size", "512",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until_healthy(process, port)
        yield Server(port)
    finally:
        process.terminate()
        process.wait()


def _until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(10 * START_SECONDS):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                return
        except OSError:  # nobody listens yet, or it is still loading
            try:
                code = process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(f"llama-server ended with {code}") from None
    raise RuntimeError("llama-server did not begin to answer")
