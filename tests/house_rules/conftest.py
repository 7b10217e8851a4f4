"""The syntax trees of all files are kept while these rules look at them, and no longer: they are a million objects."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.project import syntax

HERE = Path(__file__).parent


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After the last rule: later tests collect garbage, and each collection would look at the trees."""
    items = item.session.items
    if all(later.path.parent != HERE for later in items[items.index(item) + 1 :]):
        syntax.cache_clear()
