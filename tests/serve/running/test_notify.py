"""What a service manager hears."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from helpers.server_process import child

from erllama_py.serve.running.notify import BEAT_SECONDS, Systemd


def manager(name: str) -> socket.socket:
    """A socket like systemd's."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(name)
    heard.settimeout(30)
    return heard


@pytest.mark.parametrize("address", ["file", "abstract"])
def test_assignments_are_sent(tmp_path: Path, address: str) -> None:
    """To a path, or to a name without one."""
    name = str(tmp_path / "notify") if address == "file" else f"@erllama-test-{os.getpid()}"
    with manager(name.replace("@", "\0")) as heard:
        systemd = Systemd({"NOTIFY_SOCKET": name})
        systemd.tell("READY=1", "STATUS=fine")
        assert heard.recv(999) == b"READY=1\nSTATUS=fine"
        systemd.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nonexistent/x"},
                                         {"NOTIFY_SOCKET": "vsock:2:1234"}])  # fmt: skip
def test_nobody_hears(environment: dict[str, str]) -> None:
    """Nothing comes of it."""
    systemd = Systemd(environment)
    systemd.tell("READY=1")
    systemd.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, BEAT_SECONDS), ({"WATCHDOG_USEC": "1000000"}, 0.5), ({"WATCHDOG_USEC": "60000000"}, BEAT_SECONDS),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, BEAT_SECONDS), ({"WATCHDOG_USEC": "soon"}, BEAT_SECONDS),
    ],
)  # fmt: skip
def test_the_watchdog_is_told_twice_in_its_time(environment: dict[str, str], seconds: float) -> None:
    """Where it watches this process."""
    assert Systemd(environment).beat_seconds == seconds


@pytest.mark.anyio
async def test_a_beat_says_what_is_done(tmp_path: Path) -> None:
    """And asks for more time while that takes long."""
    with manager(str(tmp_path / "notify")) as heard:
        systemd = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000"})
        beating = asyncio.create_task(systemd.beat(lambda: ("loading", True)))
        await asyncio.sleep(0)
        assert heard.recv(999) == b"STATUS=loading\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000"
        beating.cancel()
        systemd.close()


@pytest.mark.slow
def test_a_service_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """Ready once its models are loaded, ending when it is told to."""
    with manager(str(tmp_path / "notify")) as heard:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with child(tmp_path, environment=environment) as server:
            said = _until(heard, "READY=1")  # as it is told: a socket holds some words alone, and others are lost
            server.ready()
            assert said[0].startswith("STATUS=loading")
            assert "WATCHDOG=1" in said[0]
            assert any(one.startswith("STATUS=serving, 0 requests") for one in _until(heard, "STATUS=serving"))
            server.tell()
            _until(heard, "STOPPING=1")
            assert server.wait() == 0


def _until(heard: socket.socket, word: str) -> list[str]:
    said = [heard.recv(999).decode()]
    while not said[-1].startswith(word):
        said.append(heard.recv(999).decode())
    return said
