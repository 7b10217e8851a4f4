"""What llama.cpp says reaches the log once, as whole lines, under the model that it is about."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_gguf import broken_gguf, tiny_gguf

from erllama_py.engine.backend import Slice
from erllama_py.engine.llama import LlamaBackend, logs
from erllama_py.engine.llama.logs import LogContext, receive
from erllama_py.errors import UnsupportedModel
from erllama_py.options.model import ModelConfig

Configure = Callable[..., ModelConfig]
DEBUG, INFO, WARN, ERROR, CONTINUE = 1, 2, 3, 4, 5


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[tuple[str, str, str | None]]]]:
    """What has been logged: level, text, model."""
    with caplog.at_level(logging.DEBUG, logger="erllama_py"):

        def seen() -> list[tuple[str, str, str | None]]:
            facts: list[dict[str, Any]] = [vars(record)["erllama"] for record in caplog.records]
            texts = [record.getMessage().split(" source=")[0] for record in caplog.records]
            return [
                (record.levelname, text, fact["model"])
                for record, text, fact in zip(caplog.records, texts, facts, strict=True)
            ]

        yield seen


Lines = Callable[[], list[tuple[str, str, str | None]]]


def test_pieces_are_joined_to_lines(lines: Lines) -> None:
    """Continuations belong to the line before; a line without an end is ended by the next one."""
    with LogContext("tiny"):
        for level, piece in [(INFO, "loading "), (CONTINUE, "."), (CONTINUE, ".\n"), (WARN, "a"), (ERROR, "b\n")]:
            receive(level, piece.encode(), None)
    assert lines() == [("DEBUG", "loading ..", "tiny"), ("WARNING", "a", "tiny"), ("ERROR", "b", "tiny")]


def test_a_line_left_open_comes_when_its_context_ends(lines: Lines) -> None:
    """Nothing is lost, and nothing leaks into the next model's lines."""
    with LogContext("one"):
        receive(ERROR, b"cut", None)
    with LogContext("two"):
        receive(CONTINUE, b"off\n", None)
    assert [(text, model) for _, text, model in lines()] == [("cut", "one"), ("off", "two")]


def test_contexts_nest_and_threads_do_not_share_them(lines: Lines) -> None:
    """The innermost context of the calling thread counts; a thread without one names no model."""
    with LogContext("outer"):
        with LogContext("inner"):
            receive(WARN, b"1\n", None)
        receive(WARN, b"2\n", None)
        thread = threading.Thread(target=receive, args=(WARN, b"3\n", None))
        thread.start()
        thread.join()
    assert [(text, model) for _, text, model in lines()] == [("1", "inner"), ("2", "outer"), ("3", None)]


def test_an_error_is_noted_when_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is held: the process may end before it is logged, and because of it."""
    noted: list[str] = []
    monkeypatch.setattr(logs, "note_error", noted.append)
    with LogContext("tiny", hold=True):
        receive(WARN, b"a warning\n", None)
        receive(ERROR, b"CUDA error: ", None)
        receive(CONTINUE, b"out of memory\n", None)
        assert noted == ["CUDA error: out of memory"]


def test_held_lines_take_the_level_that_the_outcome_gives_them(lines: Lines) -> None:
    """What was expected is a debug line, however loudly it was said."""
    context = LogContext("tiny", hold=True)
    for expected in (True, False):
        with context:
            receive(ERROR, b"failed\n", None)
        context.release(expected=expected)
    assert [level for level, _, _ in lines()] == ["DEBUG", "ERROR"]


def test_bytes_that_are_no_text_are_logged_all_the_same(lines: Lines) -> None:
    """A log callback that raises would end the process."""
    receive(ERROR, b"\xff\n", None)
    receive(ERROR, None, None)
    assert lines() == [("ERROR", "\ufffd", None)]


def test_a_load_is_logged_once_under_its_model_and_nothing_is_printed(
    models: Path, configure: Configure, lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    """Chatter at debug; two models side by side keep their own lines."""
    backends = {name: LlamaBackend(name, configure(tiny_gguf("dense", models))) for name in ("one", "two")}
    threads = [threading.Thread(target=backend.load, args=(lambda _: True,)) for backend in backends.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for backend in backends.values():
        backend.close()
    said = lines()
    assert {model for _, _, model in said} == {"one", "two"}
    assert {level for level, _, _ in said} == {"DEBUG"}
    for name in backends:
        assert len([text for _, text, model in said if model == name and "general.architecture" in text]) == 1
    assert capfd.readouterr() == ("", "")


def test_a_failed_load_is_an_error_in_the_log_and_nothing_is_printed(
    models: Path, configure: Configure, lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reason that the exception gives stands in the log too."""
    backend = LlamaBackend("odd", configure(broken_gguf("unknown_architecture", models)))
    with pytest.raises(UnsupportedModel, match="unknown model architecture: 'nonesuch'"):
        backend.load(lambda _: True)
    assert any(level == "ERROR" and "nonesuch" in text and model == "odd" for level, text, model in lines())
    assert capfd.readouterr() == ("", "")


def test_a_stopped_decode_raises_no_alarm(
    models: Path, configure: Configure, lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp calls a stopped decode an error; it is an answer here."""
    backend = LlamaBackend("tiny", configure(tiny_gguf("dense", models), n_ctx=256, n_batch=256))
    backend.load(lambda _: True)
    backend.abort(True)
    backend.decode([Slice(0, 0, [1, 2, 3], True)])
    backend.abort(False)
    backend.decode([Slice(0, 0, [1] * 200, True)])
    backend.decode([Slice(1, 0, [1] * 200, True)])
    backend.close()
    said = lines()
    assert any("failed to find a memory slot" in text for _, text, _ in said)
    assert [text for level, text, _ in said if level != "DEBUG"] == []
    assert capfd.readouterr() == ("", "")
