"""Processes that save are killed in the middle of it, and what each leaves is looked at.

A thousand do nothing but write rows; in some more SmolLM2 answers prompts, and the next one begins with a prompt
that they have saved. After each kill the directory must open, without temp files and without bad ones, with every row
that was announced and every row whole; and the model must say what it says without a cache. The tests do the same a few
times; their helpers do the work.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from report import publish, table

ROUNDS = 25  # in each folder: each look reads all rows of it, so several folders keep it short
FOLDERS = {"rows of bytes": 40, "SmolLM2": 6}


async def measured(what: str, kill: Callable[[Path, int, int], Awaitable[Any]]) -> list[str]:
    """One line of the table."""
    began, killed = time.perf_counter(), []
    for seed in range(FOLDERS[what]):
        with TemporaryDirectory() as folder:
            killed.append(await kill(Path(folder) / "rows", ROUNDS, seed))
    counts = [
        sum(one.rounds for one in killed), sum(one.announced for one in killed), 0, sum(one.kept for one in killed),
        sum(one.with_temp_files for one in killed), f"{time.perf_counter() - began:.0f}",
    ]  # fmt: skip
    return [what, *map(str, counts)]


async def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.model_writer import cold_replies, kill_model_rounds
    from helpers.row_writer import kill_rounds

    cold = await cold_replies()
    lines = [
        await measured("rows of bytes", kill_rounds),
        await measured("SmolLM2", lambda root, rounds, seed: kill_model_rounds(root, rounds, seed, cold)),
    ]
    head = ["saved", "kills", "rows announced", "lost", "rows kept, all whole", "in the middle of a row", "seconds"]
    publish("kill", table(head, lines))


if __name__ == "__main__":
    asyncio.run(main())
