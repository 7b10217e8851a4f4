"""A process that writes rows is killed in the middle of it, 200 times, and what it leaves is looked at each time.

After each kill the directory must open, without temp files and without bad ones, with every row that was announced
and every row whole. The tests do the same a few times; their helper does the work.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from report import publish, table

FOLDERS = 8  # each look reads all rows of a folder: several folders keep it short
ROUNDS = 25  # in each


async def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.row_writer import Killed, kill_rounds

    began, in_all = time.perf_counter(), Killed()
    for seed in range(FOLDERS):
        with TemporaryDirectory() as folder:
            killed = await kill_rounds(Path(folder) / "rows", ROUNDS, seed)
        in_all = Killed(
            in_all.rounds + killed.rounds,
            in_all.announced + killed.announced,
            in_all.kept + killed.kept,
            in_all.with_temp_files + killed.with_temp_files,
        )
    head = ["kills", "rows announced", "lost", "rows kept, all whole", "kills in the middle of a row", "seconds"]
    seconds = f"{time.perf_counter() - began:.0f}"
    counts = [in_all.rounds, in_all.announced, 0, in_all.kept, in_all.with_temp_files]
    publish("kill", table(head, [[*map(str, counts), seconds]]))


if __name__ == "__main__":
    asyncio.run(main())
