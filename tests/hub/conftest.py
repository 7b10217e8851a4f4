"""A hub of the test's own, and an empty cache for what is pulled from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub import FakeHub

from erllama_py.hub import retrying


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The hub's cache on this machine."""
    return tmp_path / "hub-cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that this process asks."""
    with FakeHub().running() as running:
        running.patch(monkeypatch, cache)
        yield running


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tries of a download."""
    monkeypatch.setattr(retrying, "WAITS", (0.0,) * len(retrying.WAITS))
