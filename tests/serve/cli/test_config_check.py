"""`erllama config check`: it says of a file what `erllama serve` would make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_gguf import tiny_gguf

from erllama_py.serve.access import make_key
from erllama_py.serve.cli import main

MODEL = '[[models]]\npath = "dense.gguf"\n'
KEY = f'[[access.keys]]\nname = "ada"\nhash = "{make_key()[1]}"\n'
LARGE = (
    "[server]\nmemory_budget_bytes = 500_000_000\n[runtime]\nram_quota_bytes = 1_048_576\n"
    '[[models]]\nname = "large"\nbackend = "stub"\nmemory_bytes = 900_000_000\n'
)


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
        (LARGE, "'large' takes 858 MiB and the memory budget leaves 220 MiB for it beside 257 MiB for saved rows"),
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


def stubs(*models: tuple[str, int], budget: int | None) -> str:
    """A file with models that take so many MiB, of those that are loaded when it says; others have `budget` MiB."""
    bound = "" if budget is None else f"[server]\nmemory_budget_bytes = {(budget + 257) << 20}\n"
    tables = [
        f'[[models]]\nname = "{number}"\nbackend = "stub"\nload = "{load}"\nmemory_bytes = {size << 20}\n'
        for number, (load, size) in enumerate(models)
    ]
    return f"[runtime]\nram_quota_bytes = {1 << 20}\n{bound}{''.join(tables)}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (stubs(("start", 30), ("start", 20), budget=None), "50 MiB of memory in total; "),
        (stubs(("start", 30), ("demand", 20), ("demand", 20), budget=100),
         "30 MiB of memory from the start, 70 MiB at most with models on demand; "),
        (stubs(("start", 30), ("demand", 20), ("demand", 20), budget=60),
         "30 MiB of memory from the start, 60 MiB at most with models on demand; "),
    ],
)  # fmt: skip
def test_models_on_demand_take_turns_in_the_budget(
    folder: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What all take together is never more than that."""
    assert check(folder, text) == 0
    assert f"  {said}" in capsys.readouterr().out
