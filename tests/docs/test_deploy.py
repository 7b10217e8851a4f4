"""The files of `deploy/`: a unit that systemd takes, a Dockerfile without what its linter warns of, a configuration."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from helpers.project import TOP

from erllama_py.serve.config import check_tables
from erllama_py.serve.core.settings import ServerOpts

UNIT, DOCKERFILE, EXAMPLE = (TOP / "deploy" / name for name in ("erllama.service", "Dockerfile", "server.toml"))


def test_the_unit_fits_the_server() -> None:
    """It is told when the server is ready, and waits long enough for it to end."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names as they are written
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) >= ServerOpts().drain_seconds + 60
    assert float(service["WatchdogSec"]) > 0
    assert service["DynamicUser"] == "yes"


@pytest.mark.slow
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """As its own check says, where it is there; the command is another one, which exists."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd here")
    copy = tmp_path / "erllama.service"
    copy.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    checked = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.slow
def test_the_dockerfile_is_clean() -> None:
    """As hadolint says, where it is there."""
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(TOP / ".venv" / "bin"))
    if hadolint is None:
        pytest.skip("no hadolint here")
    checked = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_container_fits_the_server() -> None:
    """It has a user of its own, a health check that exists, and signals reach the server: no shell is in between."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.MULTILINE)
    for name in ("HEALTHCHECK .*CMD", "ENTRYPOINT", "CMD"):
        found = re.search(rf"^{name} (\[.*\])$", text, re.MULTILINE)
        assert found is not None
        command = json.loads(found[1])
        module = command[2].replace(".", "/") + ".py" if command[1:2] == ["-m"] else "erllama_py/serve/cli/__init__.py"
        assert (TOP / module).exists()


@pytest.mark.parametrize("whole", [False, True], ids=["as it is", "with all that is switched off"])
def test_the_example_of_a_configuration_is_one(whole: bool) -> None:
    """Also with the lines that are not in effect; it keeps its files where the unit lets the service write."""
    text = EXAMPLE.read_text()
    if whole:
        text = re.sub(r"^#(?! |$)", "", text, flags=re.MULTILINE)
        text = text.replace('host = "127.0.0.1"\n', "", 1)
    config = check_tables(tomllib.loads(text), EXAMPLE)
    assert [model.name for model in config.models][:2] == ["assistant", "embedder"]
    assert len(config.access.keys) == (2 if whole else 0)
    assert config.server.host == ("0.0.0.0" if whole else "127.0.0.1")
    written = [config.runtime.home, config.server.responses_directory, getattr(config.tiers["disk"], "root", None)]
    assert all(str(path).startswith("/var/cache/erllama") for path in written)
    assert config.server.drain_seconds == ServerOpts().drain_seconds


def test_the_example_lies_where_the_service_looks_for_it() -> None:
    """The unit and the container name the same file."""
    assert "/etc/erllama/server.toml" in EXAMPLE.read_text()
    assert "--config /etc/erllama/server.toml" in UNIT.read_text()
    assert '"/etc/erllama/server.toml"' in DOCKERFILE.read_text()
