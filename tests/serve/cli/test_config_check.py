"""`erllama config check`: it says of a file what `erllama serve` would make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_gguf import tiny_gguf

from erllama_py.serve.access import make_key
from erllama_py.serve.cli import main

MODEL = '[[models]]\npath = "dense.gguf"\n'
KEY = f'[[access.keys]]\nname = "ada"\nhash = "{make_key()[1]}"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_gguf("dense", tmp_path)
    monkeypatch.setenv("ERLLAMA_HOME", str(tmp_path / "home"))
    return tmp_path


def check(folder: Path, text: str) -> int:
    """The exit code for a file of this text."""
    (folder / "erllama.toml").write_text(text)
    return main(["config", "check", str(folder / "erllama.toml")])


def test_it_shows_the_tier_that_serve_makes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the file has none."""
    assert check(folder, f"[server]\nport = 9000\n{MODEL}") == 0
    printed = capsys.readouterr().out
    assert "1 model, 1 tier" in printed
    assert "saves to cache" in printed
    assert str(folder / "home" / "kv" / "9000") in printed
    assert not (folder / "home" / "kv").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "models: there is no model to serve"),
        (f'[server]\nhost = "0.0.0.0"\n{MODEL}', "without keys only this machine is served"),
        (f'[server]\ntls_cert = "none.pem"\n{MODEL}', "No such file"),
        (f'{MODEL}{KEY}models = ["dens"]\n', "access.keys[0].models[0]': no model is called 'dens'; there are dense"),
    ],
)
def test_what_serve_refuses_is_refused(folder: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line."""
    assert check(folder, text) == 1
    printed, complaints = capsys.readouterr()
    assert printed == ""
    assert said in complaints
    assert complaints.count("\n") == 1
