"""A server in a process of its own, over models of a configuration, and what becomes of it when it is told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from helpers.project import TOP

SERVER = """
import json, sys
from pathlib import Path
from erllama_py.serve.app import create_app
from erllama_py.serve.cli.ending import ended
from erllama_py.serve.config import check_tables
from erllama_py.serve.running import listen, run, serve
from erllama_py.serve.running.listening import url_of
from helpers.held_decodes import hold_by
from helpers.instant_copies import instant_copies

def main():
    instant_copies(setattr)
    hold_by(Path(sys.argv[2]) / "held", setattr)
    config = check_tables(json.loads(sys.argv[1]), Path(sys.argv[2]) / "server.toml")
    with listen(config.server, config.access) as listening:
        print(url_of(config.server, listening), flush=True)
        ready = lambda: print("ready", flush=True)
        run(serve(create_app(config), listening, config.server, ready=ready))
    return 0

sys.exit(ended(main))
"""
STUB: dict[str, Any] = {"name": "tiny", "backend": "stub", "context_opts": {"n_ctx": 4096, "n_seq_max": 4}}
PATIENCE = 60


class Child:
    """The process, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], first: str, held: Path) -> None:
        self.process, self._held = process, held
        self.url = first
        transport = httpx.HTTPTransport(uds=first) if first.startswith("/") else None
        base = "http://localhost" if transport else first
        self.client = httpx.Client(base_url=base, transport=transport, timeout=PATIENCE)

    def ready(self) -> None:
        """Wait until it can answer."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def hold(self) -> None:
        """Have its stub do a few decodes more and then wait; what is cancelled ends. See `hold_by`."""
        self._held.touch()

    def go_on(self) -> None:
        """Let it decode again."""
        self._held.unlink()

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE)

    def complaints(self) -> str:
        """What it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextmanager
def child(
    folder: Path, *, model: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None, **tables: Any
) -> Iterator[Child]:
    """A server with one model, by default a stub; `tables` are others of its configuration."""
    given: dict[str, Any] = {"models": [{**STUB, **(model or {})}], "server": {"port": 0}, **tables}
    given["server"] = {"isolation": "thread", **given["server"]}  # a process more is not the point, and takes its time
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(given), str(folder)], cwd=TOP, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{TOP}{os.pathsep}{TOP / 'tests'}", **(environment or {})},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        one = Child(process, process.stdout.readline().strip(), folder / "held")
        with one.client:
            yield one
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
