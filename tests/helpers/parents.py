"""Applications that are parents of a model's process, each in a process of its own: what they do to it on purpose.

`app(body)` is the text of one: what its `main` has at hand is in `BEFORE`. `run` has one run to its end, `running`
while a test looks at what it prints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.blows import state
from helpers.project import TOP
from helpers.runtime import until
from helpers.terminal import environment

BEFORE = """
import asyncio, os, signal, sys, threading
import erllama_py as erllama
from helpers.blows import state
from helpers.cache import stub_reply
from helpers.crowd import prompts
from helpers.leftovers import belongings, children, same_as
from helpers.runtime import until

LENGTH = 300
PROMPTS = [list(prompt) for prompt in prompts(4, reply=LENGTH)]
GREEDY = {"temperature": 0.0, "response_tokens": LENGTH}

async def load(runtime, model_id="m", **more):
    return await runtime.load_model(model_id, {
        "backend": "stub", "isolation": "process", "stub": {"seconds_per_token": 0.002},
        "context_opts": {"n_ctx": 2048, "n_seq_max": 4}, "restarts": {"intensity": 100, "backoff_max": 0.0}, **more,
    })

async def ask(model, number=0):
    reply = await model.complete(PROMPTS[number], **GREEDY)
    assert reply.generated == stub_reply(PROMPTS[number], LENGTH), reply

async def begun(model, number=0):
    "A stream whose first token is here."
    stream = model.stream(PROMPTS[number], **GREEDY)
    events = await stream.__aenter__()
    tokens = []
    while not tokens:
        event = await anext(events)
        if isinstance(event, erllama.TextDelta):
            tokens += event.token_ids
    return stream, events, tokens

async def ended(stream, events, tokens, number=0):
    "It brings the rest, once."
    async for event in events:
        if isinstance(event, erllama.TextDelta):
            tokens += event.token_ids
    await stream.__aexit__(None, None, None)
    assert tokens == stub_reply(PROMPTS[number], LENGTH), tokens

def is_gone(pid):
    return state(pid) in "ZX"

def fork():
    "Another process that has all that this one has, but its output, and waits until it is killed."
    other = os.fork()
    if other == 0:
        os.closerange(0, 3)
        while True:
            signal.pause()
    return other

def say(*words):
    print(*words, flush=True)

"""
AFTER = """
asyncio.run(main())
"""


def app(body: str, after: str = AFTER) -> str:
    """The text of an application that has a `main`."""
    return BEFORE + body + after


def run(body: str, after: str = AFTER) -> str:
    """Run one to its end; what it has printed. It fails with what it wrote where it fails."""
    ended = subprocess.run(_command(app(body, after)), env=_environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def running(body: str) -> Iterator[subprocess.Popen[str]]:
    """One that runs, and is killed at the latest at the end."""
    process = subprocess.Popen(
        _command(app(body)), env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> list[str]:
    """The words of its next line."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words, "it has ended"
    return words


async def all_gone(pids: set[int]) -> None:
    """Return once none of these processes is there; one that nobody waits for has ended too."""
    await until(lambda: all(state(pid) in "ZX" for pid in pids))


def kill(pid: int) -> None:
    """End a process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _command(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def _environment() -> dict[str, str]:
    return environment(PYTHONPATH=f"{TOP}:{Path(TOP) / 'tests'}")
