"""The syntax trees of all files are kept while these rules look at them, and no longer: they are a million objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.project import syntax

HERE = Path(__file__).parent


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last rule: later tests collect garbage, and each collection would look at the trees."""
    if nextitem is None or nextitem.path.parent != HERE:
        syntax.cache_clear()
