"""What a context costs by its cells and its sequences: what the defaults of `n_ctx` and `n_seq_max` rest on.

The memory of all sizes is told by llama.cpp (`inspect_model`). Of those that are `RATED` each has a process of its own,
in which a model was loaded so; all are asked in turn, round after round, and what one says is compared with what the
smallest says in the same round. Its memory is what the system says of the process after its last round, and is not of a
file. `--rounds 1` is a quick look.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from fresh import Answer, Peer, peer
from opened import MODELS, N_THREADS, prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

CELLS, SEQUENCES = (2048, 4096, 8192, 16384), (1, 2, 4, 8)
RATED = {(2048, 1), (8192, 1), (8192, 4)}
PROMPT, REPLY = 512, 32  # tokens of a prompt that nobody has seen, and of a reply
AGENTS, SYSTEM, OWN = 4, 256, 32  # who ask at once: tokens of the beginning that they share, and of what is their own
STREAM = 48  # tokens of the stream beside which another asks
ROUNDS = 3
MIB = 1 << 20


class Size(NamedTuple):
    """Of a context."""

    n_ctx: int
    n_seq_max: int


class Round(NamedTuple):
    """What one size did in one round: tokens a second, seconds, and bytes."""

    prefill: float
    alone: float
    agents: float  # of all replies together, from the first question to the last token
    beside: float  # seconds to the first token of who asks beside a stream
    resident: int


@asynccontextmanager
async def loaded(path: Path, size: Size) -> AsyncIterator[Answer]:
    """A model with a context of this size, in this process."""
    context: erllama.ContextOptsDict = {"n_ctx": size.n_ctx, "n_seq_max": size.n_seq_max, "n_threads": N_THREADS}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("sized", {"model_path": path, "context_opts": context})

        async def answer(number: int) -> Round:
            return await one_round(model, number)

        yield answer


async def one_round(model: erllama.Model, number: int) -> Round:
    """Everything once, with prompts that no other round has."""
    first = 100 * number
    alone = await reply(model, await prompt(model, first, PROMPT))
    system = await prompt(model, first + 1, SYSTEM)
    asked = [system + await prompt(model, first + 10 + agent, OWN) for agent in range(AGENTS)]
    began = time.perf_counter()
    said = await asyncio.gather(*(reply(model, tokens) for tokens in asked))
    seconds = time.perf_counter() - began
    beside = await beside_stream(model, await prompt(model, first + 2, OWN), await prompt(model, first + 3, OWN))
    return Round(
        prefill=PROMPT / alone.stats.prefill_seconds, alone=alone.stats.tokens_per_second,
        agents=sum(len(one.generated) for one in said) / seconds, beside=beside, resident=anonymous(),
    )  # fmt: skip


async def reply(model: erllama.Model, tokens: Sequence[int], length: int = REPLY) -> erllama.Completion:
    """A reply of so many tokens, whatever ends one."""
    options: erllama.RequestOptionsDict = {"response_tokens": length, "temperature": 0.0, "ignore_eos": True}
    return await model.complete(tokens, options=options)


async def beside_stream(model: erllama.Model, streamed: Sequence[int], asked: Sequence[int]) -> float:
    """Seconds to the first token of a request that comes when a stream has begun."""
    async with model.stream(streamed, response_tokens=STREAM, temperature=0.0, ignore_eos=True) as events:
        await anext(aiter(events))
        other = asyncio.ensure_future(reply(model, asked, 1))
        async for _ in events:
            pass
    return (await other).stats.first_token_seconds


def anonymous() -> int:
    """Bytes of this process that are not of a file: mapped weights are."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def sizes(n_ctx_train: int) -> list[Size]:
    """All of them, up to what the model was trained for; the smallest first."""
    return [Size(cells, many) for cells in CELLS if cells <= n_ctx_train for many in SEQUENCES]


def told(path: Path, size: Size) -> erllama.ContextMemory:
    """What llama.cpp says that such a context takes."""
    context: erllama.ContextOptsDict = {"n_seq_max": size.n_seq_max}
    return erllama.inspect_model(path, context_opts=context, context_sizes=[size.n_ctx]).contexts[0]


def rows_of(title: str, path: Path, rounds: int) -> list[list[str]]:
    """The lines of one model."""
    wanted = sizes(erllama.inspect_model(path, context_sizes=[]).n_ctx_train)
    with ExitStack() as stack:
        rated = [size for size in wanted if size in RATED]
        peers: dict[Size, Peer] = {size: stack.enter_context(peer(loaded, path, size)) for size in rated}
        found: dict[Size, list[Round]] = {size: [] for size in rated}
        for number in range(rounds + 1):
            for size, one in peers.items():
                found[size].append(one.ask(number))
                print(title, size, found[size][-1], file=sys.stderr, flush=True)
    least = found[wanted[0]][1:]
    return [line(title, size, told(path, size), found.get(size, [])[1:], least) for size in wanted]


def line(
    title: str, size: Size, memory: erllama.ContextMemory, own: Sequence[Round], least: Sequence[Round]
) -> list[str]:
    """One size in the table, its rates as ratios to the smallest of the same rounds."""

    shown = [title, f"{size.n_ctx:,}", str(size.n_seq_max), f"{memory.cell_bytes / MIB:.0f}"]
    shown.append(f"{memory.compute_bytes / MIB:.0f}")
    if not own:
        return [*shown, "", "", "", "", ""]

    def ratio(of: str) -> str:
        ratios = [getattr(one, of) / getattr(other, of) for one, other in zip(own, least, strict=True)]
        return f"{statistics.median(ratios):.2f}"

    more = own[-1].resident - least[-1].resident
    return [
        *shown, f"{more / MIB:+.0f}", ratio("prefill"), ratio("alone"), ratio("agents"),
        f"{statistics.median(one.beside for one in own) * 1000:.0f}",
    ]  # fmt: skip


def states(folder: Path) -> list[list[str]]:
    """What contexts of the tiny models take whose memory is no list of cells alone, in KiB."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.tiny_gguf import KINDS, tiny_gguf  # of the tests, which are no package

    lines = []
    for kind in KINDS:
        path = tiny_gguf(kind, folder)
        nbytes = {size: told(path, size).cell_bytes for size in (Size(2048, 1), Size(4096, 1), Size(2048, 201))}
        small, long, many = nbytes.values()
        lines.append([kind, f"{(long - small) / 2048:.0f}", f"{(many - small) / 200 / 1024:.1f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    lines = [one for name, title in MODELS.items() for one in rows_of(title, fetch(name), rounds)]
    head = [
        "model", "`n_ctx`", "`n_seq_max`", "cells, MiB", "work, MiB", "process, MiB", "prompt", "one stream",
        f"{AGENTS} agents", "beside a stream, ms",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        kinds = table(["tiny model", "bytes a cell", "KiB a sequence"], states(Path(folder)))
    publish("defaults", f"{table(head, lines)}\n\n{kinds}")


if __name__ == "__main__":
    main()
