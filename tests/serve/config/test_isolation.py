"""Where the engines of a server's models run: what `[server]` says, and what a model's own table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.config import Config, ConfigError, check_served, check_tables
from erllama_py.serve.config.isolation import default_isolation
from erllama_py.serve.demand.changes import changes

FILE = Path("/etc/erllama/erllama.toml")
BOTH = {"isolation": "process", "spare": True}


DEFAULT = default_isolation()


def checked(server: dict[str, Any], **table: Any) -> Config:
    """A configuration with one model."""
    return check_tables({"server": server, "models": [{"name": "m", "backend": "stub", **table}]}, FILE)


def options(config: Config) -> dict[str, Any]:
    """What its model is loaded with, of these."""
    return {name: value for name, value in config.models[0].options.items() if name in BOTH}


def test_a_servers_models_have_processes_where_there_can_be_some() -> None:
    """Unless anybody says; what the library takes by default is another matter."""
    places = [("linux", False), ("linux", True), ("darwin", False)]
    assert [default_isolation(*one) for one in places] == ["process", "thread", "thread"]
    assert erllama.ModelConfig().isolation == "thread"


@pytest.mark.parametrize(
    ("server", "table", "expected"),
    [
        ({}, {}, {"isolation": DEFAULT}),
        ({"isolation": "thread"}, {}, {"isolation": "thread"}),
        (BOTH, {}, BOTH),
        (BOTH, {"spare": False}, {"isolation": "process", "spare": False}),
        (BOTH, {"isolation": "thread"}, {"isolation": "thread"}),
        ({"isolation": "thread", "spare": True}, {"isolation": "process"}, BOTH),
        ({"isolation": "process"}, {"spare": True}, BOTH),
    ],
)
def test_a_table_goes_before_what_the_server_says(
    server: dict[str, Any], table: dict[str, Any], expected: dict[str, Any]
) -> None:
    """A spare of the server is for models in processes."""
    assert options(checked(server, **table)) == expected


def test_limits_of_a_process_go_with_the_isolation_of_the_server() -> None:
    """They need a process, wherever that is said."""
    assert checked({"isolation": "process"}, process_opts={"nice": 5}).models[0].options["process_opts"] == {"nice": 5}
    with pytest.raises(ConfigError, match="process_opts"):
        checked({"isolation": "thread"}, process_opts={"nice": 5})


def test_a_spare_for_no_process_is_refused() -> None:
    """As in the table of a model; where one model has a process, it is for that one."""
    check_served(checked(BOTH))
    check_served(checked({"spare": True}, isolation="process"))
    with pytest.raises(erllama.InvalidOption, match=r"server\.spare"):
        check_served(checked({"spare": True}, isolation="thread"))


def test_a_wrong_word_has_its_place() -> None:
    """That of the server's table, where it stands there."""
    with pytest.raises(ConfigError, match=r"server\.isolation"):
        checked({"isolation": "fibre"})


def test_models_come_back_as_the_server_says_after_a_reload() -> None:
    """Those whose tables do not say."""
    found = changes(checked({"isolation": "thread"}), checked({"isolation": "process"}))
    assert found.replaced == ("m",)
    assert (found.changed, found.needs_restart) == (("server.isolation",), ())
    assert changes(checked({}, isolation="thread"), checked(BOTH, isolation="thread")).replaced == ()
