"""Where log events go: to the application's structlog when it has one, else to the standard library."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from helpers.project import TOP

from erllama_py.actors import ActorEnded, ChildFailure, Returned, StopTimeout
from erllama_py.engine.evidence import EngineDied
from erllama_py.errors import CrashReport
from erllama_py.watch.failures import LINES, last_words, log_failure
from erllama_py.watch.log import LLAMA_CPP, get_logger

Outcome = Literal["ended", "restarting", "gave_up", "abandoned"]


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """structlog as an application that never heard of it has it."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


FAILS = """
import asyncio
import erllama_py as erllama

async def agent():
    raise ZeroDivisionError("of the agent")

async def main():
    limits = {"intensity": 1, "backoff_first": 0.0}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        for where in ("actor", "decode"):
            model.inject_fault(where)
            try:
                await model.complete("hello", response_tokens=20)
            except erllama.ModelCrashed:
                pass
        await (await runtime.supervise("agent", agent, limits=limits)).wait()

asyncio.run(main())
"""


@pytest.mark.slow
def test_an_application_that_configures_nothing_sees_failures_and_nothing_else() -> None:
    """On stderr, by the last-resort handler: which child failed, its supervisor, the cause, with the traceback. Nothing
    on stdout."""
    done = subprocess.run([sys.executable, "-c", FAILS], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    events = [line for line in done.stderr.splitlines() if "supervisor=" in line]
    facts = "supervisor='user' child='agent'"
    error = "error='ZeroDivisionError: of the agent'"
    assert events[-3:] == [
        f"a child failed {facts} restarts=0 {error}",
        f"a child failed {facts} restarts=1 {error}",
        f"gave up restarting {facts} restarts=1 {error}",
    ]
    assert done.stderr.count('raise ZeroDivisionError("of the agent")') + done.stderr.count("in agent\n") >= 2
    assert done.stderr.count("Traceback (most recent call last)") >= len(events) - 1
    assert [line for line in events if "supervisor='models' child='model:m'" in line]
    assert "model loaded" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("unconfigured")
def test_what_llama_cpp_says_is_silent_until_there_is_a_handler(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It warns of much that is none of the application's business; handlers of the application get it."""
    script = "from erllama_py.watch.log import LLAMA_CPP, get_logger; get_logger(LLAMA_CPP).error('it broke')"
    done = subprocess.run([sys.executable, "-c", script], cwd=TOP, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    get_logger(LLAMA_CPP).error("it broke")
    assert [(record.name, record.message) for record in caplog.records] == [("erllama_py.llama_cpp", "it broke")]


@pytest.mark.parametrize(
    ("error", "outcome", "level", "event", "raised"),
    [
        (ZeroDivisionError("x"), "ended", "WARNING", "a child failed", True),
        (ZeroDivisionError("x"), "gave_up", "ERROR", "gave up restarting", False),
        (ActorEnded("loop", Returned()), "ended", "WARNING", "a permanent child returned", False),
        (
            ActorEnded("loop", Returned()),
            "gave_up",
            "ERROR",
            "gave up restarting a permanent child that returns",
            False,
        ),
        (StopTimeout("loop", 1.0), "abandoned", "ERROR", "abandoned: it does not end", False),
    ],
)
@pytest.mark.usefixtures("unconfigured")
def test_a_failure_is_logged_with_all_there_is_to_know(
    error: Exception, outcome: Outcome, level: str, event: str, raised: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Level and words by what comes of it; the traceback where there is one."""
    with contextlib.suppress(ZeroDivisionError):
        if isinstance(error, ZeroDivisionError):
            raise error
    log_failure(ChildFailure("user", "loop", error, 2, outcome))
    [record] = caplog.records
    assert record.levelname == level
    assert record.getMessage().startswith(f"{event} supervisor='user' child='loop' restarts=2 error=")
    assert type(error).__name__ in record.getMessage()
    assert bool(record.exc_info) == raised


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (ZeroDivisionError("x"), "restarting a failed child"),
        (ActorEnded("loop", Returned()), "restarting a permanent child that returned"),
    ],
)
@pytest.mark.usefixtures("unconfigured")
def test_a_restart_is_told_without_what_was_told_of_the_failure(
    error: Exception, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With its delay: a line that follows on that of the failure."""
    caplog.set_level(logging.INFO)
    log_failure(ChildFailure("user", "loop", error, 2, "restarting", 0.25))
    [record] = caplog.records
    assert (record.levelname, record.exc_info) == ("INFO", None)
    assert record.getMessage() == f"{event} supervisor='user' child='loop' restarts=2 delay_seconds=0.25"


@pytest.mark.usefixtures("unconfigured")
def test_the_end_of_a_process_is_logged_with_what_it_said_last(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback of who noticed it says nothing; its report does."""
    lines = tuple(f"line {number}" for number in range(9))
    crash = CrashReport(
        reason="signal", problem="SIGSEGV, in a decode of 1 token", pid=7, requests=(3,), log_lines=lines
    )
    error = EngineDied(crash)
    with contextlib.suppress(EngineDied):
        raise error
    log_failure(ChildFailure("models", "model:a", error, 0, "ended"))
    [record] = caplog.records
    assert record.exc_info is None
    assert "SIGSEGV, in a decode of 1 token" in record.getMessage()
    assert f"pid=7 requests=(3,) last={lines[-LINES:]}" in record.getMessage()


def test_of_a_trace_the_innermost_frames_are_told() -> None:
    """What a thread began with is the same each time; the assertion and the place are what a reader needs."""
    frames = [f'  File "engine.py", line {number} in frame_{number}' for number in range(9)]
    died = ["ggml.c:1: GGML_ASSERT(no) failed", "Fatal Python error: Aborted", "", "Stack (most recent call first):"]
    ended = ["", "Extension modules: msgspec._core (total: 1)"]
    assert last_words(["loading", *died, *frames, *ended]) == ("loading", *died[:2], frames[0])
    hung = ["Thread 0x01 (most recent call first):", *frames[:3], "", "Current thread 0x02 (most recent call first):"]
    assert last_words(["decoding", *hung, *frames[3:]]) == ("decoding", frames[0], frames[3])
    assert last_words(frames) == (frames[0],)  # a head that the report has no more
    assert last_words([]) == ()


@pytest.mark.usefixtures("unconfigured")
def test_the_standard_library_gets_records_with_key_values(caplog: pytest.LogCaptureFixture) -> None:
    """The message is readable as it is, and the facts are one attribute, whatever their names."""
    with caplog.at_level(logging.DEBUG, logger="erllama_py"):
        get_logger(model="tiny").warning("it is 100%", name="a", msg="b", module="c")
    [record] = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "erllama_py")
    assert record.getMessage() == "it is 100% model='tiny' name='a' msg='b' module='c'"
    assert vars(record)["erllama"] == {"model": "tiny", "name": "a", "msg": "b", "module": "c"}


@pytest.mark.usefixtures("unconfigured")
def test_an_exception_goes_to_the_standard_library_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """`exc_info` keeps its meaning."""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        get_logger().error("it broke", exc_info=True)
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.usefixtures("unconfigured")
def test_levels_without_a_listener_cost_no_record(caplog: pytest.LogCaptureFixture) -> None:
    """The standard library's level is asked first."""
    with caplog.at_level(logging.WARNING, logger="erllama_py"):
        get_logger().debug("chatter")
    assert caplog.records == []


@pytest.mark.usefixtures("unconfigured")
def test_an_application_with_structlog_gets_events_through_its_own_processors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With everything that was bound, and nothing goes to the standard library beside it."""
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[capture])
    get_logger(model="tiny").info("loaded", seconds=1)
    assert capture.entries == [{"event": "loaded", "log_level": "info", "model": "tiny", "seconds": 1}]
    assert caplog.records == []
