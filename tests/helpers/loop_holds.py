"""How long a huge text keeps the event loop waiting: `python -m helpers.loop_holds FILE MEGABYTES CELLS NAME…`.

The names are of calls and of kinds of texts, by default all.

A task that sleeps for half a millisecond looks how long it slept. Not counted is what other processes took: a wait is
the process's own CPU time at the most, and less what the loop's thread stood in line for a CPU. Where one is long, the
places are told at which other threads are right after it: the step before one of them has kept the interpreter.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import erllama_py as erllama

LONG = 0.015  # seconds
UNITS = {
    "ascii": "The quick brown fox jumps over the lazy dog. ", "emoji": "😀", "emoji in words": "hi 👍🏽 there 👩‍👩‍👧 ",
    "cjk": "春眠不覚暁，処処聞啼鳥。\n", "cjk alone": "春眠不覚暁処処聞啼鳥", "cyrillic": "Привет мир! ", "spaces": " ",
    "line ends": "\n", "letters": "a", "digits": "7", "tokens": "<|im_end|>",
    "turns": "<|im_start|>user\nhi<|im_end|>\n", "<": "<", "<|": "<|", "|>": "|>", "<think>": "<think>",
    "combined": "a\u0301\u0323", "marks": "\u0301", "no characters": "\ufdd0", "escapes": "\\ufdd0", "NUL": "\0",
    "unassigned": "\u0378", "private": "\U0010ffff", "surrogates": "\ud800",
}  # fmt: skip
CALLS: dict[str, Callable[[erllama.Model, str], Awaitable[object]]] = {
    "tokenize": lambda model, text: model.tokenize(text),
    "complete": lambda model, text: model.complete(text, response_tokens=1),
    "chat": lambda model, text: model.chat([{"role": "user", "content": text}], response_tokens=1),
    "system": lambda model, text: model.chat(
        [{"role": "system", "content": text}, {"role": "user", "content": "a"}], response_tokens=1
    ),
    "history": lambda model, text: model.chat(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}, {"role": "user", "content": "b"}],
        response_tokens=1,
    ),
    "session": lambda model, text: model.session().chat(text, response_tokens=1),
    "score": lambda model, text: model.score("a", [text]),
    "prompt of score": lambda model, text: model.score(text, ["a"]),
    "embed": lambda model, text: model.embed(text),
    "rerank": lambda model, text: model.rerank(text, ["a", text], method="embeddings"),
    "explain": lambda model, text: model.explain(text),
}


class Hold(NamedTuple):
    """Seconds of one wait, those of them that the loop's own thread worked, and where the other threads were."""

    seconds: float
    own: float
    places: tuple[str, ...]


def _stood_in_line(thread: int) -> float:
    with open(f"/proc/self/task/{thread}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def _places() -> tuple[str, ...]:
    here, found = threading.get_ident(), []
    for thread, frame in sys._current_frames().items():
        steps = [step for step in traceback.extract_stack(frame) if "erllama_py/" in step.filename]
        if thread != here and steps:
            found.append(" < ".join(f"{one.filename.rsplit('/', 1)[-1]}:{one.lineno}" for one in steps[:-4:-1]))
    return tuple(found)


async def look(holds: list[Hold]) -> None:
    """Append each long wait, until cancelled."""
    thread, turn = threading.get_native_id(), 0
    line = _stood_in_line(thread)
    while True:
        turn += 1
        if turn % 200 == 0:
            line = _stood_in_line(thread)
        begun, used, own = time.perf_counter(), time.process_time(), time.thread_time()
        await asyncio.sleep(0.0005)
        waited, used = time.perf_counter() - begun, time.process_time() - used
        if min(waited, used) > LONG:
            places, stood = _places(), _stood_in_line(thread)
            seconds, line = min(waited - (stood - line), used), stood
            if seconds > LONG:
                holds.append(Hold(seconds, time.thread_time() - own, places))


async def measured(call: Awaitable[object]) -> tuple[str, float, list[Hold]]:
    """What a call came to, in how many seconds, and the long waits meanwhile."""
    holds = list[Hold]()
    task, begun = asyncio.create_task(look(holds)), time.perf_counter()
    await asyncio.sleep(0.01)
    try:
        said = type(await call).__name__
    except erllama.ErllamaError as error:
        said = f"{type(error).__name__}: {str(error)[:80]}"
    seconds = time.perf_counter() - begun
    await asyncio.sleep(0.003)
    task.cancel()
    return said, seconds, sorted(holds, reverse=True)


async def attack(path: str, megabytes: float, cells: int, calls: list[str], kinds: list[str]) -> None:
    """Prints a line for each call and kind."""
    config: Any = {"model_path": path, "context_opts": {"n_ctx": cells}}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        await model.chat([{"role": "user", "content": "hello"}], response_tokens=1)
        for kind in kinds:
            unit = UNITS[kind]
            text = unit * int(megabytes * (1 << 20) / len(unit.encode(errors="surrogatepass")))
            for call in calls:
                said, seconds, holds = await measured(CALLS[call](model, text))
                longest = 1000 * holds[0].seconds if holds else 0
                print(f"{call:16} {kind:16} {seconds:6.2f} s, longest wait {longest:5.1f} ms: {said}", flush=True)
                for hold in holds[:3]:
                    print(f"    {1000 * hold.seconds:.1f} ms (loop {1000 * hold.own:.1f}) {hold.places}", flush=True)


def main(path: str, megabytes: str, cells: str, *names: str) -> None:
    """The command line."""
    calls = [one for one in names if one in CALLS]
    kinds = [one for one in names if one in UNITS]
    asyncio.run(attack(path, float(megabytes), int(cells), calls or list(CALLS), kinds or list(UNITS)))


if __name__ == "__main__":
    main(*sys.argv[1:])
