"""What the environment and the command line say of a server, before its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.serve import with_memory
from erllama_py.serve.config import Config, ConfigError, check_tables, with_environment

FILE: dict[str, Any] = {"server": {"port": 9000, "keep_alive": "1h"}, "models": [{"name": "a", "backend": "stub"}]}


def file(**given: Any) -> Config:
    """A configuration."""
    return check_tables(FILE | given, Path("/etc/erllama.toml"))


def test_a_variable_goes_before_the_file() -> None:
    """One that is empty is not there."""
    said = {"ERLLAMA_HOST": "0.0.0.0", "ERLLAMA_PORT": "80", "ERLLAMA_MEMORY_BUDGET": "8GiB", "ERLLAMA_KEEP_ALIVE": ""}
    server = with_environment(file(), said).server
    assert (server.host, server.port, server.memory_budget_bytes, server.keep_alive) == ("0.0.0.0", 80, 8 << 30, "1h")
    assert with_environment(file(), {"PATH": "/bin"}) == file()
    assert with_environment(file(), {"ERLLAMA_KEEP_ALIVE": "-1"}).server.keep_alive == "-1"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ERLLAMA_PORT", "http"), ("ERLLAMA_PORT", "99999"), ("ERLLAMA_KEEP_ALIVE", "soon"),
        ("ERLLAMA_MEMORY_BUDGET", "a lot"), ("ERLLAMA_MEMORY_BUDGET", "0"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(variable: str, text: str) -> None:
    """And nothing is served."""
    with pytest.raises(erllama.InvalidOption) as refused:
        with_environment(file(), {variable: text})
    assert refused.value.option == variable


def test_the_command_line_goes_before_both() -> None:
    """Its options are named where they are wrong."""
    config = with_environment(file(), {"ERLLAMA_MEMORY_BUDGET": "8GiB", "ERLLAMA_KEEP_ALIVE": "5m"})
    server = with_memory(config, memory_budget="512m", keep_alive=None).server
    assert (server.memory_budget_bytes, server.keep_alive) == (512 << 20, "5m")
    for option, given in (("--memory-budget", {"memory_budget": "x"}), ("--keep-alive", {"keep_alive": "x"})):
        with pytest.raises(UsageError, match=option):
            with_memory(config, **{"memory_budget": None, "keep_alive": None, **given})


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ({"server": {"keep_alive": "soon"}}, "server.keep_alive"),
        ({"server": {"memory_budget_bytes": "8GiB"}}, "server.memory_budget_bytes"),
        ({"models": [{"backend": "stub", "keep_alive": "soon"}]}, "models[0].keep_alive"),
        ({"models": [{"backend": "stub", "keep_alive": 5, "pinned": True}]}, "models[0].keep_alive"),
        ({"models": [{"backend": "stub", "load": "later"}]}, "models[0].load"),
        ({"models": [{"backend": "stub", "memory_bytes": 1}]}, "models[0].memory_bytes"),
    ],
)
def test_a_wrong_key_is_named(table: dict[str, Any], place: str) -> None:
    """With its place in the file."""
    with pytest.raises(ConfigError) as refused:
        file(**table)
    assert refused.value.place == place


@pytest.mark.parametrize(
    ("model", "seconds"),
    [
        ({}, None), ({"keep_alive": "1m"}, 60.0), ({"load": "demand"}, 3600.0),
        ({"load": "demand", "keep_alive": -1}, None), ({"load": "demand", "pinned": True}, None),
    ],
)  # fmt: skip
def test_how_long_a_model_stays(model: dict[str, Any], seconds: float | None) -> None:
    """As it says itself, else as the server says where it is loaded on demand."""
    config = file(models=[{"backend": "stub", **model}])
    assert config.models[0].stays(config.server.keep_alive) == seconds
    assert config.is_bounded == (model.get("load") == "demand")
