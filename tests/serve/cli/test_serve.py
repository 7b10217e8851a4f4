"""`erllama serve`: what a command line and a file come to together."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.serve.cli import main
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.model_options import context_options, model_from
from erllama_py.serve.cli.serve import settle, why_in_memory, with_cache, with_responses
from erllama_py.serve.config import Config, check_tables

FILE: dict[str, Any] = {
    "server": {"port": 9000, "max_open": 7},
    "tiers": {"main": {"kind": "disk", "root": "kv"}},
    "models": [{"path": "a.gguf", "aliases": ["one"], "context_opts": {"n_ctx": 512, "n_threads": 2}}],
}


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What would be served, in place of a server."""
    found: list[Config] = []

    def host(config: Config, *rest: object, **more: object) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr("erllama_py.serve.cli.hosting.host", host)
    return found


def settled(file: dict[str, Any], *models: str, aliases: Sequence[str] = (), **given: Any) -> Config:
    """What `serve` makes of a file and of a command line."""
    own = {name: given.pop(name, None) for name in ("host", "port", "cache", "gpu_layers")}
    return settle(
        check_tables(file, Path("/etc/erllama.toml")), [model_from(Path(model)) for model in models], aliases=aliases,
        context_opts=context_options(**given), **own,
    )  # fmt: skip


def test_a_command_line_goes_before_the_file() -> None:
    """Option by option; what it does not say is as in the file."""
    config = settled(FILE, host="0.0.0.0", context=1024, sequences=3, gpu_layers=-1)
    assert (config.server.host, config.server.port, config.server.max_open) == ("0.0.0.0", 9000, 7)
    (model,) = config.models
    assert model.options["context_opts"] == {"n_ctx": 1024, "n_threads": 2, "n_seq_max": 3}
    assert model.options["model_opts"] == {"n_gpu_layers": -1}


def test_models_of_the_command_line_come_beside_those_of_the_file() -> None:
    """They save where those do."""
    config = settled(FILE, "/m/b.gguf")
    assert [(model.name, model.options["tier_srv"]) for model in config.models] == [("a", "main"), ("b", "main")]
    assert settled({}, "/m/b.gguf").models[0].options["tier_srv"] == "ram"


@pytest.mark.parametrize(
    ("models", "aliases", "expected"),
    [
        (["/m/a.gguf"], ["x", "y"], {"x": "a", "y": "a"}),
        (["/m/a.gguf", "/m/b.gguf"], ["x=b", "y=/m/a.gguf", "z=b.gguf"], {"y": "a", "x": "b", "z": "b"}),
        (["/m/a.gguf"], ["x=a"], {"x": "a"}),
    ],
)
def test_aliases_are_of_the_only_model_or_of_the_one_that_they_name(
    models: list[str], aliases: list[str], expected: dict[str, str]
) -> None:
    """By its name or its file."""
    assert settled({}, *models, aliases=aliases).aliases() == expected


@pytest.mark.parametrize("aliases", [["x"], ["x=c"], ["=a"]])
def test_an_alias_of_no_model_is_refused(aliases: list[str]) -> None:
    """With the models that there are."""
    with pytest.raises(UsageError, match=r"a, b|2 models"):
        settled({}, "/m/a.gguf", "/m/b.gguf", aliases=aliases)


def test_rows_go_to_a_directory_of_the_port_by_default(tmp_path: Path) -> None:
    """Below the home; where the file has tiers, or a directory is given, there."""
    config = settled({"runtime": {"home": str(tmp_path)}}, "/m/a.gguf", port=9000)
    kept = with_cache(config, given_cache=None)
    assert kept.tiers["cache"].root == str(tmp_path / "kv" / "9000")
    assert kept.models[0].options["tier"] == "disk"
    assert with_cache(config, given_cache="/k").tiers["cache"] == erllama.DiskTier("/k")
    assert with_cache(config, given_cache="none") == config
    of_file = settled(FILE)
    assert with_cache(of_file, given_cache=None) == of_file
    both = with_cache(of_file, given_cache="/k")
    assert list(both.tiers) == ["cache", "main"]
    assert both.models[0].options["tier_srv"] == "cache"


@pytest.mark.parametrize(("free", "writable", "why"), [(1 << 20, True, "almost full"), (1 << 40, False, "no file can")])
def test_a_home_that_takes_nothing_is_left_alone(
    free: int, writable: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in a container that cannot write serves all the same; where somebody names a directory, it is that."""
    monkeypatch.setattr("erllama_py.serve.cli.serve._free", lambda root: free)
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    config = settled({"runtime": {"home": str(tmp_path)}}, "/m/a.gguf")
    assert with_cache(config, given_cache=None) == config
    assert why in why_in_memory(config)
    kept = with_responses(config, given_cache=None).server
    assert (kept.responses_directory is None, kept.files_directory is None) == (not writable, not writable)
    assert with_cache(config, given_cache="/k").tiers["cache"] == erllama.DiskTier("/k")


def test_a_server_says_why_it_keeps_rows_in_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, before the model is loaded; not where that was asked for."""
    monkeypatch.setattr("erllama_py.serve.cli.serve._free", lambda root: 1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = ["serve", str(tiny_gguf("dense", tmp_path)), "--port", str(taken.getsockname()[1])]
        assert main(line) == 1
        assert capsys.readouterr().err.count("kept in memory alone: the disk of") == 1
        assert main([*line, "--cache", "none"]) == 1
        assert "memory alone" not in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = ["serve", str(tiny_gguf("dense", tmp_path)), "--port", str(port), "--cache", "none"]
        assert main(line) == 1
    complaints = capsys.readouterr().err
    assert f"port {port}" in complaints
    assert "in use" in complaints
    assert complaints.count("\n") == 1


def test_two_models_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where one is of the command line."""
    path = str(tiny_gguf("dense", tmp_path))
    assert main(["serve", path, path]) == 1
    assert "'dense' is models[0].name already" in capsys.readouterr().err


def test_a_model_that_was_fetched_is_known_by_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hosted: list[Config]
) -> None:
    """The one that was typed; a second time is once."""
    monkeypatch.setattr("erllama_py.serve.cli.model_options.fetch", lambda *given, **more: tiny_gguf("dense", tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "smollm2", "--alias", "smollm2", "--alias", "chat=smollm2", "--cache", "none"]) == 0
    assert hosted[0].aliases() == {"smollm2": "dense", "chat": "dense"}
    assert capsys.readouterr().err == ""


ISOLATED = """
[server]
isolation = "{of_server}"
[[models]]
name = "asks"
backend = "stub"
[[models]]
name = "says"
backend = "stub"
isolation = "thread"
"""


@pytest.mark.parametrize("of_server", ["thread", "process"])
def test_the_command_line_isolates_models_whose_tables_do_not_say(
    of_server: str, tmp_path: Path, hosted: list[Config]
) -> None:
    """It goes before `[server]`, and holds for models of the command line too."""
    file = tmp_path / "erllama.toml"
    file.write_text(ISOLATED.format(of_server=of_server))
    line = ["serve", str(tiny_gguf("dense", tmp_path)), "--config", str(file), "--cache", "none"]
    assert main([*line, "--isolation", "process", "--spare"]) == 0
    found = {one.name: (one.options.get("isolation"), one.options.get("spare")) for one in hosted[0].models}
    assert found == {"asks": ("process", True), "says": ("thread", None), "dense": ("process", True)}


def test_a_spare_needs_a_process(tmp_path: Path, hosted: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    """One of any model."""
    assert main(["serve", str(tiny_gguf("dense", tmp_path)), "--spare", "--isolation", "thread"]) == 1
    assert "'server.spare': a spare process is for" in capsys.readouterr().err
    assert hosted == []


def test_a_struct_of_the_file_is_not_changed() -> None:
    """What is settled is another."""
    config = check_tables(FILE, Path("/etc/erllama.toml"))
    before = msgspec.json.encode(config)
    settle(config, [], aliases=["x"], host="h", port=1, cache=None, context_opts={"n_ctx": 9}, gpu_layers=1)
    assert msgspec.json.encode(config) == before
