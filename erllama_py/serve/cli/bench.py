"""`erllama bench`: how fast a model computes prompts and replies, and what the cache saves."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.bench_measures import Measured, lines, measure
from erllama_py.serve.cli.bench_model import Loaded
from erllama_py.serve.cli.bench_server import TOKENS_SECONDS, Asked
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.model_options import find_model, model_from
from erllama_py.serve.cli.remote import Key, client_options, reached
from erllama_py.serve.config import Config, ServedModel

Tokens = Annotated[int, Parameter(validator=Number(gte=1, lte=1 << 20))]
Replies = Annotated[int, Parameter(validator=Number(gte=2, lte=1 << 20))]  # a rate takes two
Few = Annotated[int, Parameter(validator=Number(gte=1, lte=1000))]
OtherServer = Annotated[
    str | None,
    Parameter(help="Measure a model of a running server instead: its URL, or the path of its Unix socket."),
]
GpuLayers = Annotated[int | None, Parameter(allow_leading_hyphen=True)]
ROOM = 64  # cells of a sequence beside its prompt and its reply


def bench(
    model: str, /, *, prompt: Tokens = 512, tokens: Replies = 64, sequences: Few = 1, repeat: Few = 3, seed: int = 1,
    threads: int | None = None, gpu_layers: GpuLayers = None, json: bool = False, server: OtherServer = None,
    key: Key = None,
) -> int:  # fmt: skip
    """Measure how fast a model reads and writes, and what the cache saves.

    Tokens a second of prompts and of replies, and the first token of a prompt that is computed against that of one
    whose cells come from the cache. Prompts are random tokens, each new. What is shown is the median of the repeats,
    and the least and the most.

    Parameters
    ----------
    model
        A GGUF file, or the name of a small model that can be fetched; with --server, a model of that server.
    prompt
        Tokens of each prompt.
    tokens
        Tokens of each reply.
    sequences
        Prompts that are computed, and replies that are written, side by side.
    repeat
        How often all of it is done.
    seed
        Of the random tokens.
    threads
        CPU threads; by default as many as compute fastest.
    gpu_layers
        Layers on the GPU; -1 for all.
    json
        Print all figures as JSON.
    """
    sizes = {"prompt": prompt, "tokens": tokens, "sequences": sequences, "repeats": repeat, "seed": seed}
    if server is None:
        cells = sequences * (prompt + tokens + ROOM)
        served = model_from(
            find_model(model), context=cells, threads=threads, sequences=sequences, gpu_layers=gpu_layers
        )
        found = asyncio.run(_measure_model(served, sizes))
    else:
        found = asyncio.run(_measure_server(server, key, model, sizes))
    if json:
        screen.print_json(found)
    else:
        for line in lines(found):
            screen.out().print(escape(screen.visible(line)))
    return DONE


async def _measure_model(served: ServedModel, sizes: dict[str, int]) -> Measured:
    config = Config(models=(served,))
    async with erllama.Runtime(**config.runtime_options()) as runtime:
        return await measure(await Loaded.load(runtime, served), **sizes)


async def _measure_server(server: str, key: str | None, model: str, sizes: dict[str, int]) -> Measured:
    import httpx

    with reached(server, key) as remote:
        async with httpx.AsyncClient(
            **client_options(server, key, seconds=TOKENS_SECONDS, asynchronous=True)
        ) as client:
            return await measure(Asked(client, remote, model), **sizes)
