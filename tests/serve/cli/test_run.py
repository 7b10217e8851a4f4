"""`erllama run`: turns through pipes and on a terminal, commands, Ctrl-C."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from helpers.in_step import in_step
from helpers.terminal import on_terminal
from helpers.tiny_bert import tiny_bert
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.serve.cli import main, screen
from erllama_py.serve.cli.run import Reply
from erllama_py.serve.models import fetch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_gguf("dense", tmp_path_factory.mktemp("models")))


def piped(text: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["run", *arguments, "--tokens", "4", "--temperature", "0", "--threads", "1"])


@pytest.mark.slow
def test_each_line_of_a_pipe_is_a_turn(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replies alone go to stdout; what each turn saved to stderr, where the second reuses the first."""
    assert piped("hello\n\nand you?\n", monkeypatch, model, "--system", "be brief") == 0
    printed, aside = capsys.readouterr()
    first, second = aside.splitlines()
    assert "reused" not in printed
    assert first.startswith("[0 of ")
    assert int(second[1:].split(" of ")[0]) > 20
    assert "4 tokens" in second


def test_commands_change_the_conversation(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one is as long as the first was; a line goes on after a backslash; what follows /quit is not read."""
    lines = "hi\n/clear\nhi\n/system be very brief\nhi\n/foo\n/help\nh\\\ni\n/quit\nhi\n"
    assert piped(lines, monkeypatch, model) == 0
    aside = capsys.readouterr().err
    prompts = [line.split(" of ")[1].split()[0] for line in aside.splitlines() if " prompt tokens reused" in line]
    assert len(prompts) == 4
    assert prompts[0] == prompts[1]
    assert int(prompts[2]) > int(prompts[0])
    for part in ("a new conversation\n", "with this system message", "erllama: there is no /foo", "/quit"):
        assert part in aside


def test_an_error_ends_a_pipe(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With its exit code, so that a script notices."""
    assert piped("x" * 3000 + "\nhi\n", monkeypatch, model, "--context", "256") == 1
    printed, aside = capsys.readouterr()
    assert printed == ""
    assert aside.startswith("erllama: ")
    assert aside.count("\n") == 1


def test_a_last_line_that_was_to_go_on_is_a_turn(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there is not lost."""
    assert piped("hello\\\n", monkeypatch, model) == 0
    assert "4 tokens" in capsys.readouterr().err


def test_bytes_that_are_no_text_end_a_pipe(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever Python takes for the encoding of a machine without a locale."""
    given = io.TextIOWrapper(io.BytesIO(b"hi \xff\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", given)
    assert main(["run", model, "--threads", "1"]) == 2
    assert capsys.readouterr().err.startswith("erllama: that is no text: ")


def test_an_encoder_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not at the first turn."""
    assert piped("", monkeypatch, str(tiny_bert(tmp_path))) == 1
    assert "is an encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_terminal_shows_a_prompt_and_ctrl_c_ends_first_the_reply_and_then_the_program(model: str) -> None:
    """An error leaves the conversation as it was."""
    with on_terminal("run", model, "--threads", "1", "--context", "4096") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("x" * 3000 + "\n")
        terminal.wait_for("\n")
        terminal.wait_for(" prompt tokens reused")
        terminal.wait_for(">>> ")
        terminal.type("/help\n")
        terminal.wait_for("Ctrl-C ends a reply")
        terminal.wait_for(">>> ")
        assert terminal.end("\x03") == 130


@pytest.mark.slow
@pytest.mark.real_model
def test_a_conversation_with_a_real_model() -> None:
    """Ctrl-C ends a long reply with what it has; Ctrl-D the program; the second turn reuses the first."""
    with on_terminal("run", str(fetch("smollm2")), "--temperature", "0", "--tokens", "300") as terminal:
        terminal.wait_for(">>> ")
        terminal.type("Write a very long story about the moon.\n")
        terminal.wait_for("\n")
        terminal.wait_for(" the ")
        terminal.type("\x03")
        terminal.wait_for("[0 of ")
        terminal.wait_for(">>> ")
        terminal.type("Say hello.\n")
        terminal.wait_for(" s saved; ")
        terminal.wait_for(">>> ")
        assert terminal.end("\x04") == 0


def test_lines_are_kept_for_their_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the history can be read by nobody else."""
    readline = pytest.importorskip("readline")
    from erllama_py.serve.cli.run import _write

    _write(readline, tmp_path / "home" / "history")
    assert (tmp_path / "home" / "history").stat().st_mode & 0o077 == 0


@pytest.mark.anyio
@pytest.mark.parametrize("when", ["before", "within"])
async def test_a_reply_can_be_stopped_at_any_time(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it has begun, and after its first text; it ends with what it has."""
    said = asyncio.Event()
    monkeypatch.setattr(screen, "say", lambda text: said.set())
    async with erllama.Runtime(backend_factory=in_step()) as runtime:
        model = await runtime.load_model({"backend": "stub"})
        reply = Reply(model, [{"role": "user", "content": "hi"}], {"ignore_eos": True})
        if when == "before":
            reply.stop()
            completion = await reply.show()
            assert completion.generated == []
        else:
            async with asyncio.TaskGroup() as group:
                showing = group.create_task(reply.show())
                await said.wait()
                reply.stop()
            completion = showing.result()
        assert completion.finish_reason == "cancelled"
