"""What `erllama serve` reads again while it runs: it refuses what it would refuse at its start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.access import make_key
from erllama_py.serve.cli import main
from erllama_py.serve.config import Config, ConfigError, InsecureHost, SizedModel, TlsUnusable

MODEL = '[[models]]\nname = "a"\nbackend = "stub"\n'
KEY = f'[[access.keys]]\nname = "ada"\nhash = "{make_key()[1]}"\n'
OPEN = '[server]\nhost = "0.0.0.0"\n'


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[str], Config]]:
    """Starts a server with a file of this text, which serves nothing; what reads the file again, with another text."""
    monkeypatch.setenv("ERLLAMA_HOME", str(tmp_path / "home"))
    file, read = tmp_path / "erllama.toml", list[Callable[[], Config]]()

    def host(config: Config, sized: Sequence[SizedModel], *, reread: Callable[[], Config], **given: Any) -> int:
        read.append(reread)
        return 0

    monkeypatch.setattr("erllama_py.serve.cli.hosting.host", host)

    def start(text: str) -> Callable[[str], Config]:
        file.write_text(text)
        assert main(["serve", "--config", str(file)]) == 0

        def again(text: str) -> Config:
            file.write_text(text)
            return read[-1]()

        return again

    return start


@pytest.mark.parametrize(
    ("first", "then", "error", "said"),
    [
        (MODEL, f'[server]\ntls_cert = "none.pem"\n{MODEL}', TlsUnusable, "No such file"),
        (MODEL, OPEN + MODEL, InsecureHost, "without keys only this machine is served"),
        (OPEN + MODEL + KEY, MODEL, InsecureHost, "without keys only this machine is served"),
        (MODEL, MODEL + MODEL, ConfigError, "each model needs its own"),
        (MODEL, f'{MODEL}{KEY}models = ["b"]\n', erllama.InvalidOption, "no model is called 'b'"),
    ],
)
def test_what_a_start_would_refuse_is_refused(
    started: Callable[[str], Callable[[str], Config]], first: str, then: str, error: type[Exception], said: str
) -> None:
    """Also a file without keys where the server listens to other machines until it is started again."""
    again = started(first)
    with pytest.raises(error, match=said):
        again(then)


def test_another_port_and_the_same_doors_are_read(started: Callable[[str], Callable[[str], Config]]) -> None:
    """They hold from the next start on, and are no reason to refuse."""
    again = started(OPEN + MODEL + KEY)
    assert again(f"[server]\nport = 9\n{MODEL}{KEY}").server.port == 9
