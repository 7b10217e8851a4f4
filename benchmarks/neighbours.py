"""Machines that others use too: threads by default against the best fixed number of each case, in alternating rounds.

Beside other processes that are busy, beside other models of the process that are merely loaded, and with several
models at work at once. Each number of threads has a process of its own, as the default has; they take turns, and
the sleeping ones take nothing. "As built" is the bare loop of `bare`, with what llama.cpp comes with.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from multiprocessing.synchronize import Event

from bare import BareProcess, bare_process
from fresh import Answer, Peer, peer
from plot import chart
from report import PAGE, publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

NAME = "smollm2"
PROMPT = "The history of the lighthouse begins with a fire on a hill. "
TOKENS = 96  # of each reply
PREFILL = 512  # tokens of each prompt that is read
N_CTX = 1024
SECONDS = 3.0  # of work for each figure of a round
ROUNDS = 3
CPUS = len(os.sched_getaffinity(0))
FIXED = sorted({1, max(1, CPUS // 2), CPUS})
BUSY = (0, 1, 2)
IDLE = (1, 3, 7)
AT_WORK = (2, 4)
DEFAULT = "by default"


@asynccontextmanager
async def engines(n_threads: int | None) -> AsyncIterator[Answer]:
    """Models in one process. Asked what to do and with how many models, it tells tokens a second, of all together."""
    context: erllama.ContextOptsDict = {"n_ctx": N_CTX, "n_seq_max": 1, "n_threads": n_threads}
    config: erllama.ModelConfigDict = {
        "model_path": fetch(NAME),
        "context_opts": context,
        "policy": {"min_tokens": None},
    }
    models: list[erllama.Model] = []
    dice = random.Random(n_threads)
    async with erllama.Runtime() as runtime:

        async def load(count: int) -> None:
            while len(models) < count:
                models.append(await runtime.load_model(config))
                await models[-1].complete(PROMPT, response_tokens=4)  # only then its threads have run
            while len(models) > count:
                await runtime.unload(models.pop())

        async def decode(model: erllama.Model, until: float) -> int:
            tokens = 0
            for seed in itertools.count():
                done = await model.complete(PROMPT, response_tokens=TOKENS, temperature=0.0, seed=seed)
                tokens += len(done.generated)
                if time.perf_counter() >= until:
                    return tokens
            raise AssertionError("it counts for ever")

        async def prefill(model: erllama.Model, until: float) -> int:
            tokens = 0
            while time.perf_counter() < until:
                asked = [dice.randrange(1000, 20000) for _ in range(PREFILL)]
                tokens += (await model.complete(asked, response_tokens=1)).stats.prefill_tokens
            return tokens

        async def answer(what: str, loaded: int, at_work: int) -> float:
            await load(loaded)
            began = time.perf_counter()
            work = decode if what == "decode" else prefill
            tokens = await asyncio.gather(*(work(model, began + SECONDS) for model in models[:at_work]))
            return sum(tokens) / (time.perf_counter() - began)

        yield answer


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes that take a CPU each."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = [context.Process(target=_spin, args=(stop,), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in processes:
            process.join()


def _spin(stop: Event) -> None:
    while not stop.is_set():
        sum(range(20_000))


Rates = Mapping[str, list[float]]  # tokens a second in each round, by the number of threads


def as_built(bare: BareProcess, prompt: list[int]) -> float:
    """Tokens a second of the bare loop, for as long as ours works."""
    tokens, seconds = 0, 0.0
    while seconds < SECONDS:
        seconds += bare.run(prompt, TOKENS // 4)[0]
        tokens += TOKENS // 4
    return tokens / seconds


def measure(peers: Mapping[str, Peer], what: str, loaded: int, at_work: int) -> Rates:
    """The rounds of one case."""
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, one in peers.items():
            rates[name].append(one.ask(what, loaded, at_work))
    return rates


def compare(case: str, rates: Rates) -> tuple[list[str], float]:
    """A line of the table, and the ratio to the best fixed number."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = medians.pop(DEFAULT)
    best = max(medians, key=lambda name: medians[name])
    ratios = [one / other for one, other in zip(rates[DEFAULT], rates[best], strict=True)]
    of_one = min(one / other for one, other in zip(rates[DEFAULT], rates["1"], strict=True))
    fixed = [f"{rate:.0f}" for rate in medians.values()]
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return [case, f"{ours:.0f}", *fixed, f"{ours / medians[best]:.2f} × ({best})", spread, f"{of_one:.2f} ×"], ours


def beside_processes(peers: Mapping[str, Peer], bare: BareProcess, prompt: list[int]) -> list[list[str]]:
    """Decode and prefill beside busy processes; draws the picture."""
    lines: list[list[str]] = []
    points: dict[str, list[tuple[float, float]]] = {}
    for busy in BUSY:
        with neighbours(busy):
            for what in ("decode", "prefill"):
                case = f"{what}, {'alone' if not busy else f'beside {busy} busy process' + 'es' * (busy > 1)}"
                rates = measure(peers, what, 1, 1)
                built = as_built(bare, prompt) if what == "decode" else None
                lines.append([*compare(case, rates)[0], "–" if built is None else f"{built:.0f}"])
                if built is not None:
                    medians = {name: statistics.median(values) for name, values in rates.items()}
                    for name, rate in {**medians, f"as built, {CPUS}": built}.items():
                        points.setdefault(_name(name), []).append((busy + 1, rate))
    title = f"Decoding on {CPUS} CPUs beside other processes: tokens a second, by threads"
    chart(PAGE.parent / "benchmarks-neighbours.svg", title, "processes at work", "tokens/s", points, from_zero=True)
    return lines


def _name(threads: str) -> str:
    return threads if not threads.isdigit() else f"{threads} thread{'s' * (threads != '1')}"


def beside_models(peers: Mapping[str, Peer]) -> list[list[str]]:
    """One model beside others that are loaded, against itself alone, in alternating rounds."""
    one, rates = peers[DEFAULT], {number: list[float]() for number in (0, *IDLE)}
    for _ in range(ROUNDS):
        for number in rates:
            rates[number].append(one.ask("decode", 1 + number, 1))
    alone = rates.pop(0)
    lines = [["0", f"{statistics.median(alone):.0f}", "1.00 ×", ""]]
    for number, values in rates.items():
        ratios = [ours / other for ours, other in zip(values, alone, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        lines.append([f"{number}", f"{statistics.median(values):.0f}", f"{statistics.median(ratios):.2f} ×", spread])
    return lines


def together(peers: Mapping[str, Peer]) -> list[list[str]]:
    """Several models of one runtime at work at once."""
    return [
        [*compare(f"{what}, {number} models at once", measure(peers, what, number, number))[0], "–"]
        for number in AT_WORK
        for what in ("decode", "prefill")
    ]


async def tokens_of(text: str) -> list[int]:
    """The prompt of the bare loop."""
    async with erllama.Runtime() as runtime:
        config: erllama.ModelConfigDict = {"model_path": fetch(NAME), "model_opts": {"vocab_only": True}}
        return await (await runtime.load_model(config)).tokenize(text)


def show(lines: Sequence[Sequence[str]]) -> str:
    """The table of what is compared with fixed numbers."""
    fixed = [f"`n_threads` {number}" for number in FIXED]
    head = [
        "SmolLM2-135M; tokens/s",
        DEFAULT,
        *fixed,
        "against the best of these",
        "its rounds",
        "least, of one thread's",
    ]
    return table([*head, "bare loop as built"], lines)


def main() -> None:
    prompt = asyncio.run(tokens_of(PROMPT))
    with ExitStack() as stack:
        peers = {DEFAULT: stack.enter_context(peer(engines, None))}
        peers |= {str(number): stack.enter_context(peer(engines, number)) for number in FIXED}
        bare = stack.enter_context(bare_process(fetch(NAME), N_CTX, CPUS))
        lines = beside_processes(peers, bare, prompt)
        idle = beside_models(peers)
        lines += together(peers)
    picture = "![Tokens a second beside other processes, by threads](benchmarks-neighbours.svg)"
    head = ["models loaded beside it, idle", "tokens/s", "of alone (at least 0.97 ×)", "its rounds"]
    publish("neighbours", "\n\n".join([show(lines), picture, table(head, idle)]))


if __name__ == "__main__":
    main()
