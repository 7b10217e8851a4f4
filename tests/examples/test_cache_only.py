"""The example of the cache without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.examples.cache_only import main

pytestmark = pytest.mark.anyio


async def test_what_was_saved_is_found_and_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second story writes only what it does not share; a second run writes nothing and finds everything."""
    await main(str(tmp_path / "kvc"))
    assert capsys.readouterr().out.splitlines() == [
        "300 of 300 tokens are saved",
        "300 of 300 tokens are saved",
        "7 rows written, 7 rows in total",  # spans of 64: five, then two after the three that are shared
    ]
    await main(str(tmp_path / "kvc"))
    assert capsys.readouterr().out.splitlines()[-1] == "0 rows written, 7 rows in total"
