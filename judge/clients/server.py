"""`erllama serve` in a process of its own, for as long as it is asked."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READY_SECONDS = 120


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """The address of a server: the model as `chat`, a small one that embeds as `vectors`. Raises `RuntimeError`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "erllama_py.serve.cli", "serve", str(model), "minilm", "--alias", f"chat={model}",
        "--alias", "vectors=all-MiniLM-L6-v2.F16", "--port", str(port), "--cache",
        "none", "--context", "8192", "--sequences", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _until_ready(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


def _until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/v1/models", timeout=5) as answer:
                if b'"chat"' in answer.read():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the server is not ready; its exit status is {process.poll()}")
