"""The first token after a restart, against its floor and against a prompt that is computed again.

A first process computes prompts of several lengths and saves them to a disk tier. A second one, which is new, is asked
for each of them with one more token, so that the saved rows are read and one token is decoded, and for each of them as
it was, which needs no decode. Between two of its answers a third process does what cannot be avoided: reads the same
bytes, hands them to llama.cpp, decodes one token. At last the same rows are served from memory and from a memory file
system.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from bare_cells import Span, restoring, spans_of
from fresh import Answer, peer
from opened import MODELS, identity_of, opened, prompt
from plot import Points, chart
from report import PAGE, publish, table

from erllama_py import Model, Runtime

LENGTHS = (256, 512, 1024, 2048, 2900)
ROUNDS = 7
MEMORY = Path("/dev/shm")
OPTIONS: dict[str, Any] = {"response_tokens": 1, "temperature": 0.0}

Row = list[str]


class Asked(NamedTuple):
    """One answer: seconds until its token came, and what had to be computed for it."""

    seconds: float
    computed: int  # tokens of the prompt
    lookup_seconds: float
    restore_seconds: float


async def ask(runtime: Runtime, model: Model, tokens: Sequence[int]) -> Asked:
    """Continue `tokens` by one token, and let what is saved of it be done before anything else is measured."""
    began = time.perf_counter()
    done = await model.complete(tokens, **OPTIONS)
    seconds = time.perf_counter() - began
    await runtime.cache.flush()
    stats = done.stats
    return Asked(seconds, stats.prefill_tokens, stats.lookup_seconds, stats.restore_seconds)


@asynccontextmanager
async def first_life(name: str, root: Path) -> AsyncIterator[Answer]:
    """A part: computes a prompt for the first time, and at once again."""
    async with opened(name, root) as (runtime, model):

        async def answer(length: int) -> tuple[Asked, Asked]:
            tokens = await prompt(model, length, length)
            return await ask(runtime, model, tokens), await ask(runtime, model, tokens)

        yield answer


@asynccontextmanager
async def second_life(name: str, root: Path, tier: str = "disk") -> AsyncIterator[Answer]:
    """A part: finds what the first life has saved."""
    async with opened(name, root, tier=tier) as (runtime, model):
        if tier == "ram":
            await into_memory(runtime, model)

        async def answer(what: Literal["spans", "next", "same"], length: int, number: int = 0) -> Any:
            tokens = await prompt(model, length, length)
            if what == "spans":
                return await spans_of(runtime, model, tokens, root)
            return await ask(runtime, model, tokens if what == "same" else [*tokens, 100 + number])

        yield answer


async def into_memory(runtime: Runtime, model: Model) -> None:
    """Put the rows of the prompts into the tier in memory too: from there they are taken first."""
    for length in LENGTHS:
        tokens = await prompt(model, length, length)
        ends = {row.key: (row.start, row.end) for row in await runtime.cache.rows()}
        for key, tier in (await runtime.cache.find(identity_of(model), tokens)).rows:
            row, (start, end) = await runtime.cache.read(key, tier), ends[key]
            await runtime.cache.put(identity_of(model), tokens[:end], start, bytes(row.payload), logits=row.logits)
            await runtime.cache.flush()


class Restart(NamedTuple):
    """What was seen of one length: cold, then each round."""

    length: int
    cold: Asked
    again: Asked
    next: list[Asked]
    same: list[Asked]
    floor: list[float]
    floor_bytes: list[float]


def restart(name: str, root: Path) -> list[Restart]:
    """Measure one model, the rows lying in the page cache."""
    with peer(first_life, name, root) as life:
        cold: dict[int, tuple[Asked, Asked]] = {length: life.ask(length) for length in LENGTHS}
    with peer(second_life, name, root) as life, peer(restoring, name) as bare:
        spans: dict[int, list[Span]] = {length: life.ask("spans", length) for length in LENGTHS}
        seen = {length: Restart(length, *cold[length], [], [], [], []) for length in LENGTHS}
        for number in range(ROUNDS):
            for length, one in seen.items():
                one.next.append(life.ask("next", length, number))
            for length, one in seen.items():  # other prompts were asked for meanwhile: their cells are gone
                one.same.append(life.ask("same", length))
                read, decoded = bare.ask(spans[length], 100 + number)
                one.floor.append(read + decoded)
                one.floor_bytes.append(read)
    return list(seen.values())


def tiers(name: str, root: Path) -> list[Row]:
    """The longest prompt and one token more, from each kind of tier."""
    length, rows = LENGTHS[-1], list[Row]()
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        copy = Path(folder) / "rows"
        for label, tier in (
            ("disk, not in the page cache", "disk"),
            ("disk, in the page cache", "disk"),
            ("ram_file", "ram_file"),
            ("ram", "ram"),
        ):
            if tier == "ram_file":
                shutil.copytree(root, copy)
            with peer(second_life, name, copy if tier == "ram_file" else root, tier) as life:
                seen = []
                for number in range(ROUNDS):
                    life.ask("same", LENGTHS[0])
                    if label.startswith("disk, not"):
                        drop_pages(root)
                    seen.append(life.ask("next", length, 100 + ROUNDS * len(rows) + number))
            rows.append([MODELS[name], label, *middle(seen)])
    return rows


def middle(seen: list[Asked]) -> Row:
    """Medians, in milliseconds: until the token, of that the look-up and the restore."""
    fields = ("seconds", "lookup_seconds", "restore_seconds")
    return [ms(statistics.median(getattr(one, field) for one in seen)) for field in fields]


def drop_pages(root: Path) -> None:
    """Let the page cache forget the rows."""
    os.sync()
    for path in (root / "rows").iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1000:.1f}"


def restart_rows(name: str, seen: list[Restart]) -> list[Row]:
    """The lines of the table."""
    rows = []
    for one in seen:
        times = [asked.seconds for asked in one.next]
        ratios = [asked.seconds / floor for asked, floor in zip(one.next, one.floor, strict=True)]
        middle = statistics.median(times)
        cold, floor = one.cold.seconds, ms(statistics.median(one.floor))
        compared = [f"{statistics.median(ratios):.2f} ×", f"{cold / middle:.0f} ×"]
        rows.append([MODELS[name], f"{one.length:,}", f"{cold:.2f} s", floor, ms(middle), ms(times[0]), *compared])
    return rows


def same_rows(name: str, seen: list[Restart]) -> list[Row]:
    """Exact repeats: at once, after a restart, and in that process again after other prompts."""
    rows = []
    for one in seen:
        first, later = one.same[0], one.same[1:]
        computed = [one.again.computed, first.computed, max(asked.computed for asked in later)]
        times = [one.again.seconds, first.seconds, statistics.median(asked.seconds for asked in later)]
        floor = statistics.median(one.floor_bytes)
        rows.append([MODELS[name], f"{one.length:,}", *map(ms, [*times, floor]), " / ".join(map(str, computed))])
    return rows


def main() -> None:
    after: list[Row] = []
    same: list[Row] = []
    kinds: list[Row] = []
    lines: dict[str, Points] = {}
    for name, label in MODELS.items():
        with TemporaryDirectory() as folder:
            root = Path(folder) / "rows"
            seen = restart(name, root)
            after += restart_rows(name, seen)
            same += same_rows(name, seen)
            kinds += tiers(name, root)
        lines[f"{label}: cold"] = [(one.length, one.cold.seconds) for one in seen]
        middles = [statistics.median(asked.seconds for asked in one.next) for one in seen]
        lines[f"{label}: restarted"] = list(zip(LENGTHS, middles, strict=True))
        floors = [statistics.median(one.floor) for one in seen]
        lines[f"{label}: floor"] = list(zip(LENGTHS, floors, strict=True))
    picture = PAGE.parent / "benchmarks-restart.svg"
    chart(picture, "First token after a restart", "tokens of the prompt", "seconds", lines)
    head = [
        "a prompt on disk and one token more; ms", "tokens", "cold", "floor", "after a restart", "the very first",
        "against the floor", "faster than cold",
    ]  # fmt: skip
    same_head = [
        "the same prompt; ms", "tokens", "at once again", "first after a restart", "later", "its bytes in",
        "tokens computed",
    ]  # fmt: skip
    tier_head = [f"{LENGTHS[-1]:,} tokens and one more; ms", "tier", "first token", "look-up", "restore"]
    image = f"![First token after a restart, by the length of the prompt]({picture.name})"
    publish("cache", "\n\n".join((table(head, after), image, table(same_head, same), table(tier_head, kinds))))


if __name__ == "__main__":
    main()
