"""llama.cpp built for this CPU against the portable build: prefill and decode, by the bare ctypes loop.

    builds.py [--model PATH]…      beside SmolLM2 (Q4_1) and Gemma 3 270M (Q4_K_M)

Both wheels are those of set-up, built now where they are missing. Each is unpacked into a folder of its own, which a
process of its own imports. The two take turns within one run, so that a machine whose speed drifts does not decide it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fresh import Answer, Peer, peer
from report import publish, table

from erllama_py.serve.models import fetch

TOP = Path(__file__).parent.parent
PREFILL, KEPT, DECODED = 512, 128, 64  # tokens
ROUNDS = 10
SMALL = {"SmolLM2-135M, Q4_1": "smollm2", "Gemma 3 270M, Q4_K_M": "gemma3"}


@asynccontextmanager
async def build(folder: Path, model: Path, n_threads: int) -> AsyncIterator[Answer]:
    """The loop on the build in this folder. Its answer: seconds of a prompt, and of single tokens after a short one."""
    sys.path.insert(0, str(folder))
    import llama_cpp
    from bare import BareLoop

    assert Path(llama_cpp.__file__).is_relative_to(folder)
    loop = BareLoop(model, 2 * PREFILL, n_threads)
    prompt = [token % 900 + 100 for token in range(PREFILL)]  # ordinary tokens of any vocabulary

    async def answer() -> tuple[float, float]:
        llama_cpp.llama_memory_seq_rm(loop.memory, 0, 0, -1)
        began = time.perf_counter()
        loop.decode(prompt)
        llama_cpp.llama_synchronize(loop.context)
        prefilled = time.perf_counter() - began
        llama_cpp.llama_memory_seq_rm(loop.memory, 0, 0, -1)
        return prefilled, loop.run(prompt[:KEPT], DECODED)[0]

    await answer()  # the first reads the file
    yield answer


def measure(name: str, model: Path, folders: Sequence[Path]) -> list[str]:
    """A line of the table."""
    with ExitStack() as stack:
        n_threads = len(os.sched_getaffinity(0))
        portable, own = (stack.enter_context(peer(build, folder, model, n_threads)) for folder in folders)
        rounds = [_round(portable, own, first=number % 2) for number in range(ROUNDS)]
    line = [name]
    for part, tokens in enumerate((PREFILL, DECODED)):
        ratios = [theirs[part] / ours[part] for theirs, ours in rounds]
        low, _, high = statistics.quantiles(ratios, n=4)
        rates = (tokens / statistics.median(times[side][part] for times in rounds) for side in (0, 1))
        line += [*(f"{rate:.0f}" for rate in rates), f"{statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})"]
    return line


def _round(portable: Peer, own: Peer, first: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """The times of both, with the one or the other first."""
    if first:
        ours = own.ask()
        return portable.ask(), ours
    return portable.ask(), own.ask()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a GGUF file more")
    more: list[Path] = parser.parse_args(arguments).model

    sys.path.insert(0, str(TOP / "scripts"))
    import setup_builds
    import setup_llama
    from setup_plan import pinned

    version = pinned((TOP / "constraints.txt").read_text(), setup_llama.LLAMA)
    machine = setup_llama.Machine()
    portable, own = (
        setup_llama.choose(version, setup_builds.Asked(portable=asked), machine) for asked in (True, False)
    )
    if own == portable:
        print("the build for this CPU is the portable one: there is nothing to compare")
        return
    models = {name: fetch(short) for name, short in SMALL.items()} | {path.stem: path.resolve() for path in more}
    with TemporaryDirectory() as top:
        folders = []
        for one in (portable, own):
            wheel = setup_llama.built(Path(sys.prefix), version, one)
            folders.append(Path(top) / one.name)
            unpack = ("install", "--quiet", "--no-deps", "--no-index", "--target", str(folders[-1]), str(wheel))
            subprocess.run([sys.executable, "-m", "pip", *unpack], check=True)
        lines = [measure(name, path, folders) for name, path in models.items()]
    head = ["tokens/s", "prefill, portable", "own build", "ratio (middle half)"]
    head += ["decode, portable", "own build", "ratio (middle half)"]
    publish("builds", f"The own build uses {own.name}.\n\n{table(head, lines)}")


if __name__ == "__main__":
    main(sys.argv[1:])
