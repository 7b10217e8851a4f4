"""`erllama pull | ls | rm`, and models of the hub wherever a command names one."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.hub import FakeHub, content
from helpers.terminal import COMMAND, environment
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.serve import models
from erllama_py.serve.cli import main, shelf
from erllama_py.serve.cli.downloads import Lines
from erllama_py.serve.cli.serve import named
from erllama_py.serve.config import ConfigError, name_of, read_config, with_pulled
from erllama_py.serve.models import MODELS

REPO = "maker/Tiny-GGUF"
Q4 = random.Random(4).randbytes(2_500_000)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without fetched models."""
    monkeypatch.setenv("ERLLAMA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def full(hub: FakeHub) -> FakeHub:
    """A hub with two models in a repository."""
    hub.add(REPO, {"T-Q4_K_M.gguf": Q4, "T-Q8_0.gguf": b"8" * 3000})
    return hub


def test_a_pull_prints_the_path_and_says_the_rest_aside(full: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe its progress is lines; the quantisation that was chosen is in the name."""
    assert main(["pull", f"hf:{REPO}"]) == 0
    printed, aside = capsys.readouterr()
    assert content(printed.strip()) == Q4
    lines = aside.splitlines()
    tenths = [int(line.removeprefix(f"hf:{REPO}: ").removesuffix(" % of 2.4 MiB")) for line in lines[:-1]]
    assert tenths == sorted(set(tenths))
    assert lines[-2:] == [f"hf:{REPO}: 100 % of 2.4 MiB", f"hf:{REPO}:Q4_K_M: 2.4 MiB downloaded"]
    assert main(["pull", f"hf:{REPO}"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"hf:{REPO}:Q4_K_M: it is there"


def test_json_has_all_models_and_no_progress(full: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    """An object for each that was named."""
    assert main(["pull", f"hf:{REPO}:q8_0", f"hf:{REPO}", "--json"]) == 0
    printed, aside = capsys.readouterr()
    assert aside == ""
    told = json.loads(printed)
    assert [(one["name"], one["size"], one["downloaded"]) for one in told] == [
        (f"hf:{REPO}:Q8_0", 3000, 3000), (f"hf:{REPO}:Q4_K_M", len(Q4), len(Q4)),
    ]  # fmt: skip
    assert len(content(told[0]["path"])) == 3000


def test_a_pull_looks_for_a_newer_version(full: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Which a load does not."""
    assert main(["pull", f"hf:{REPO}:Q8_0"]) == 0
    full.add(REPO, {"T-Q8_0.gguf": b"9" * 4000})
    assert main(["pull", f"hf:{REPO}:Q8_0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])[0]["size"] == 4000


def test_a_small_model_is_pulled_by_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is fetched where it is named."""
    file = home / "models" / MODELS["smollm2"].file_name

    def fetch(name: str, progress: models.Progress | None = None) -> Path:
        assert progress is not None
        progress(50, 100)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"12345")
        return file

    monkeypatch.setattr("erllama_py.serve.cli.pull.fetch", fetch)
    assert main(["pull", "smollm2"]) == 0
    assert capsys.readouterr() == (f"{file}\n", "smollm2: 50 % of 100 B\nsmollm2: 5 B downloaded\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pull", "name a model, such as hf:owner/repo:Q4_K_M"),
        ("pull model.gguf", "neither a model of the hub"),
        ("pull hf:x", "names no model of the hub"),
        ("pull o/r:Q4_0", "here it is hf:o/r:Q4_0"),
        ("pull https://huggingface.co/o/r", "here it is hf:o/r"),
        ("pull hf.co/o/r:Q8_0", "here it is hf:o/r:Q8_0"),
        ("pull hf://o/r", "here it is hf:o/r"),
        ("rm", "name a model"),
        ("rm model.gguf", "is no name of a model"),
        ("rm smollm2", "say --yes"),
        ("inspect hf:x/", "names no model of the hub"),
        ("rm o/r:Q4_0", "here it is hf:o/r:Q4_0"),
        ("list", "here: erllama ls"),
        ("ps", "here: erllama top"),
        ("stop", "POST /erllama/models/NAME/unload"),
        ("run x.gguf --hf-repo x", "a model of the hub stands where a file does: hf:owner/repo:Q4_K_M"),
    ],
)
def test_a_wrong_command_line_is_one_line(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code 2, and nothing is asked of the hub."""
    assert main(line.split()) == 2
    printed, aside = capsys.readouterr()
    assert (printed, len(aside.splitlines())) == ("", 1)
    assert said in aside


def test_an_error_of_the_hub_is_one_line(full: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code 1."""
    assert main(["pull", f"hf:{REPO}:Q2_K"]) == 1
    expected = f"erllama: cannot pull hf:{REPO}:Q2_K: the repository has no Q2_K; there is"
    assert capsys.readouterr().err.startswith(expected)
    full.changed.add("T-Q8_0.gguf")
    assert main(["pull", f"hf:{REPO}:Q8_0", "--json"]) == 1
    printed, aside = capsys.readouterr()
    assert printed == ""
    assert "came with the checksum" in aside


def test_what_is_here_is_listed(full: FakeHub, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the hub and those that were fetched, in columns or as JSON; nothing is an empty list."""
    assert main(["ls"]) == 0
    assert capsys.readouterr() == ("", "there is no model yet: erllama pull hf:owner/repo:Q4_K_M\n")
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["pull", f"hf:{REPO}:Q8_0"]) == 0
    path = capsys.readouterr().out.strip()
    file = home / "models" / MODELS["gemma3"].file_name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345")
    os.utime(file, (0, 86_400))
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "name"
    assert lines[1].startswith(f"hf:{REPO}:Q8_0  2.9 KiB  Q8_0")
    assert lines[1].endswith(path)
    assert lines[2].split() == ["gemma3", "5", "B", "Q4_K_M", shelf.date_of(0), str(file)]
    assert main(["ls", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["size"], one["quant"], one["path"]) for one in told] == [
        (f"hf:{REPO}:Q8_0", 3000, "Q8_0", path), ("gemma3", 5, "Q4_K_M", str(file)),
    ]  # fmt: skip
    assert told[1]["last_used"] == 0.0


def test_a_removal_says_what_it_frees(full: FakeHub, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of pulled and of fetched ones; what is not there is an error."""
    file = home / "models" / MODELS["gemma3"].file_name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345")
    assert main(["pull", f"hf:{REPO}:Q8_0", f"hf:{REPO}"]) == 0
    capsys.readouterr()
    assert main(["rm", f"hf:{REPO}:Q8_0", "gemma3", "--yes"]) == 0
    assert capsys.readouterr().out == f"hf:{REPO}:Q8_0: 2.9 KiB freed\ngemma3: 5 B freed\n"
    assert not file.exists()
    assert main(["rm", f"hf:{REPO}", "-y", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": f"hf:{REPO}", "freed": len(Q4)}]
    assert main(["rm", f"hf:{REPO}", "-y"]) == 1
    assert capsys.readouterr().err == f"erllama: hf:{REPO}: it is not pulled\n"
    assert main(["rm", "gemma3", "-y"]) == 1
    assert capsys.readouterr().err == "erllama: gemma3: it is not here\n"


def test_a_removal_that_fails_has_told_what_it_did(
    full: FakeHub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those before it are gone, and their bytes are said."""
    assert main(["pull", f"hf:{REPO}:Q8_0"]) == 0
    capsys.readouterr()
    assert main(["rm", f"hf:{REPO}:Q8_0", "smollm2", "--yes"]) == 1
    assert capsys.readouterr() == (f"hf:{REPO}:Q8_0: 2.9 KiB freed\n", "erllama: smollm2: it is not here\n")


def test_what_broke_off_is_listed_and_can_go(full: FakeHub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes room, and no model has it."""
    partial = cache / "models--maker--Tiny-GGUF" / "blobs" / f"{'a' * 64}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"12345")
    assert main(["ls"]) == 0
    printed, aside = capsys.readouterr()
    assert printed.splitlines()[1].split()[:4] == [f"hf:{REPO}", "5", "B", "unfinished"]
    assert printed.splitlines()[1].endswith(str(partial))
    assert "erllama rm NAME --unfinished removes it" in aside
    assert main(["ls", "--json"]) == 0
    assert [(one["name"], one["whole"]) for one in json.loads(capsys.readouterr().out)] == [(f"hf:{REPO}", False)]
    assert main(["rm", "smollm2", "--unfinished", "-y"]) == 2
    assert main(["rm", f"hf:{REPO}", "--unfinished", "-y"]) == 0
    assert capsys.readouterr().out == f"hf:{REPO}: 5 B freed\n"
    assert not partial.exists()


def test_a_fetched_model_that_is_in_use_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one of the hub does."""
    file = home / "models" / MODELS["gemma3"].file_name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345")
    monkeypatch.setattr(models, "mapped_by", lambda files: [12, 34])
    assert main(["rm", "gemma3", "-y"]) == 1
    assert capsys.readouterr().err == "erllama: cannot remove gemma3: processes have it in their memory: 12, 34\n"
    assert file.exists()


def test_lines_are_tenths() -> None:
    """A download that is continued begins with what is there; an empty file is done."""
    said: list[str] = []
    lines = Lines("m", said.append)
    for done in (450, 455, 499, 500, 1000):
        lines(erllama.PullProgress("f", done, 1000))
    assert said == ["m: 40 % of 1000 B", "m: 50 % of 1000 B", "m: 100 % of 1000 B"]


@pytest.mark.slow
def test_a_model_of_the_hub_stands_where_a_file_does(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line and in a configuration file, which is checked without a download."""
    hub.add("maker/tiny", {"tiny-F32.gguf": tiny_gguf("dense", tmp_path).read_bytes()})
    file = tmp_path / "erllama.toml"
    file.write_text('[[models]]\npath = "hf:maker/tiny:F32"\ncontext_opts = {n_ctx = 256, n_seq_max = 1}\n')
    config = read_config(file)
    assert [(model.name, model.options["model_path"]) for model in config.models] == [("tiny-F32", "hf:maker/tiny:F32")]
    assert main(["config", "check", str(file)]) == 1
    assert "hf:maker/tiny:F32: it is not pulled: `erllama pull hf:maker/tiny:F32` does it" in capsys.readouterr().err
    assert hub.asked == []
    assert main(["complete", "hf:maker/tiny", "hello", "--tokens", "3"]) == 0
    assert main(["config", "check", str(file), "--json"]) == 0
    assert main(["inspect", "hf:maker/tiny"]) == 0
    assert len(hub.requests("cdn")) == 1


def test_a_served_model_is_found_before_the_server_begins(tmp_path: Path) -> None:
    """Of a stub nothing is pulled; all else of a configuration stays."""
    file = tmp_path / "erllama.toml"
    file.write_text(
        '[[models]]\npath = "hf:maker/Tiny-GGUF:q8_0"\n[[models]]\npath = "a.gguf"\n'
        '[[models]]\nname = "s"\nbackend = "stub"\npath = "hf:maker/stub"\n'
    )
    config, asked = read_config(file), list[str]()

    def pulled(reference: str) -> str:
        asked.append(reference)
        return "/there.gguf"

    found = with_pulled(config, pulled)
    paths = [model.options["model_path"] for model in found.models]
    assert paths == ["/there.gguf", str(tmp_path / "a.gguf"), "hf:maker/stub"]
    assert [model.name for model in found.models] == ["Tiny-q8_0", "a", "s"]
    assert asked == ["hf:maker/Tiny-GGUF:q8_0"]


def test_a_model_of_the_command_line_answers_to_its_reference(full: FakeHub) -> None:
    """And to the name of its file."""
    model = named(f"hf:{REPO}:q8_0")
    assert (model.name, model.aliases) == ("T-Q8_0", (f"hf:{REPO}:q8_0",))


def test_a_reference_in_a_file_is_checked_at_its_place(tmp_path: Path) -> None:
    """And a model is called by it, where it has no name."""
    file = tmp_path / "erllama.toml"
    file.write_text('[[models]]\npath = "hf:maker"\n')
    with pytest.raises(ConfigError, match=r"models\[0\]\.path: 'hf:maker' names no model of the hub"):
        read_config(file)
    assert name_of("hf:maker/Tiny-GGUF:q8_0") == "Tiny-q8_0"


@pytest.mark.slow
def test_an_interrupted_pull_is_continued_by_the_next_process(full: FakeHub, cache: Path) -> None:
    """Ctrl-C ends it with 130; not a byte is asked for again but what was on the way."""
    large = random.Random(5).randbytes(24 << 20)  # more than the system holds between two programs
    full.add("maker/large", {"L.gguf": large})
    full.held_after = 20 << 20
    run = [*COMMAND, "pull", "hf:maker/large"]
    child = environment(**full.environment(cache))
    with subprocess.Popen(run, env=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert full.held.wait(60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    (partial,) = cache.rglob("*.incomplete")
    there = partial.stat().st_size
    assert 0 < there < len(large)
    full.held_after = None
    full.go_on.set()
    ended = subprocess.run([*run, "--json"], env=child, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    (told,) = json.loads(ended.stdout)
    assert told["downloaded"] == len(large) - there
    assert content(told["path"]) == large


@pytest.mark.slow
def test_two_processes_that_pull_the_same_download_it_once(full: FakeHub, cache: Path) -> None:
    """The second waits for the first, and finds it there."""
    full.held_after = 1_000_000
    run = [*COMMAND, "pull", f"hf:{REPO}", "--json"]
    child = environment(**full.environment(cache))
    two = [subprocess.Popen(run, env=child, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert full.held.wait(60)
    full.go_on.set()
    told = [json.loads(process.communicate(timeout=60)[0])[0] for process in two]
    assert sorted(one["downloaded"] for one in told) == [0, len(Q4)]
    assert full.sent["T-Q4_K_M.gguf"] == len(Q4)


class Tty(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar(full: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of lines; it is gone at the end, and what is left says what came."""
    full.held_after = 1_000_000
    shown = Tty()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    full.go_on.set()
    assert main(["pull", f"hf:{REPO}"]) == 0
    assert f"hf:{REPO} \x1b[" in shown.getvalue()
    assert shown.getvalue().endswith(f"hf:{REPO}:Q4_K_M: 2.4 MiB downloaded\n")
    assert "%" not in shown.getvalue()


@pytest.mark.parametrize(
    ("answer", "left"), [("n\n", 1), ("\n", 1), ("", 1), ("maybe\n", 1), ("y\n", 0), (" YES \n", 0)]
)
@pytest.mark.usefixtures("home")
def test_on_a_terminal_a_removal_asks(
    full: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, left: int
) -> None:
    """Whatever is not yes is no; what was asked for and not done is no error."""
    assert main(["pull", f"hf:{REPO}:Q8_0"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", Tty(answer))
    assert main(["rm", f"hf:{REPO}:Q8_0"]) == 0
    shown = capsys.readouterr()
    assert f"Remove hf:{REPO}:Q8_0? [y/N] " in shown.err
    assert ("nothing was removed" in shown.err) == bool(left)
    assert ("freed" in shown.out) == (not left)
    assert len(shelf.shelved()) == left
