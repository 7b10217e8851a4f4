"""`erllama inspect`: what is shown of a file, and what is printed as JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from helpers.tiny_bert import tiny_bert
from helpers.tiny_gguf import KINDS, Kind, tiny_gguf

import erllama_py as erllama
from erllama_py.engine.children.spawn import CannotSpawn
from erllama_py.engine.llama import probe
from erllama_py.serve.cli import main
from erllama_py.serve.cli.inspect import facts
from erllama_py.serve.cli.screen import amount
from erllama_py.serve.config import Config, ServedModel, sized


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_what_a_file_is(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its kind of memory, its template, its tools, and the memory of contexts."""
    assert main(["inspect", str(tiny_gguf(kind, tmp_path))]) == 0
    printed = capsys.readouterr().out
    kinds = {
        "dense": "dense: every",
        "window": "last 64 tokens",
        "recurrent": "a state of",
        "hybrid": "hybrid: a state",
    }
    for part in (f"tiny {kind}", kinds[kind], "f32, 32 bits", "'hermes'", "421 characters", "4,096 tokens"):
        assert part in printed
    assert "Memory of a context for 8 sequences" in printed
    assert ("KV cells" in printed) == (kind != "recurrent")


def test_json_is_all_that_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It can be read back as a `ModelFile`."""
    path = tiny_gguf("window", tmp_path)
    assert main(["inspect", str(path), "--json", "--sequences", "3"]) == 0
    told = msgspec.json.decode(capsys.readouterr().out, type=erllama.ModelFile)
    assert told == erllama.inspect_model(path, context_opts={"n_seq_max": 3})


def test_the_template_and_the_metadata_are_shown_where_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The template alone, to be put into a file."""
    path = str(tiny_gguf("dense", tmp_path))
    assert main(["inspect", path, "--template"]) == 0
    assert capsys.readouterr().out == f"{erllama.inspect_model(path).chat_template}\n"
    assert main(["inspect", path, "--metadata"]) == 0
    assert "llama.embedding_length" in capsys.readouterr().out


def test_a_file_is_tried_in_a_process_of_its_own_unless_that_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--no-probe`, and `probe = false` of a configuration, whose sizes are found by the same look."""
    tried: list[str] = []

    def run(task: str, given: object, **_: object) -> object:
        tried.append(task)
        raise CannotSpawn("not in this test")

    monkeypatch.setattr(probe, "run_child", run)
    monkeypatch.setenv("ERLLAMA_HOME", str(tmp_path / "home"))
    path = tiny_gguf("window", tmp_path)
    assert main(["inspect", str(path), "--no-probe"]) == 0
    plain = capsys.readouterr().out
    sized(Config(models=(ServedModel(name="m", options={"model_path": str(path), "probe": False}),)))
    assert tried == []
    assert main(["inspect", str(path)]) == 0
    assert "probe_file" in tried
    assert capsys.readouterr().out == plain


def test_an_encoder_has_no_memory_and_a_ranker_its_head(tmp_path: Path) -> None:
    """And neither has contexts."""
    shown = facts(erllama.inspect_model(tiny_bert(tmp_path, ranks=True)))
    assert shown["memory"] == "none: an encoder"
    assert (shown["generates"], shown["ranking"], shown["embeddings"]) == ("no", "yes, by its own head", "no")
    assert "KV cells" not in shown


def test_what_a_file_says_cannot_draw_on_the_terminal(tmp_path: Path) -> None:
    """A name of several lines is one line; marks of rich in it are text."""
    file = erllama.inspect_model(tiny_gguf("dense", tmp_path))
    hostile = msgspec.structs.replace(file, name="[bold]a\n\x1b[31mb")
    assert facts(hostile)["name"] == "[bold]a \ufffd[31mb"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (512, "512 B"), (23_040, "22.5 KiB"), (98_362_432, "93.8 MiB"), (5 << 30, "5.0 GiB")],
)  # fmt: skip
def test_amounts_are_readable(nbytes: int, text: str) -> None:
    """In units of 1,024."""
    assert amount(nbytes) == text
