"""The floor: the shortest loop over llama-cpp-python's ctypes functions that decodes and samples greedily.

It runs in a process of its own and waits for its turn: two models that decode in one process share one OpenMP
runtime, which spins less once there are more threads than CPUs, and both then run at less than half their speed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import llama_cpp
from llama_cpp._logger import set_verbose


class BareLoop:
    """One model, one context, one greedy sampler; no text, no stop sequences, no queues, no other thread."""

    def __init__(self, path: Path, n_ctx: int, n_threads: int, n_seq_max: int = 1) -> None:
        set_verbose(False)
        model_params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        context_params = llama_cpp.llama_context_default_params()
        context_params.n_ctx = n_ctx
        context_params.n_seq_max = n_seq_max
        context_params.n_threads = context_params.n_threads_batch = n_threads
        context_params.kv_unified = True
        assert self.model is not None
        self.context = llama_cpp.llama_init_from_model(self.model, context_params)
        assert self.context is not None
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.sampler = llama_cpp.llama_sampler_init_greedy()

    def run(self, prompt: list[int], count: int) -> tuple[float, list[int]]:
        """Seconds for `count` tokens after `prompt`, and the tokens; the prompt but its last token is kept."""
        if llama_cpp.llama_memory_seq_pos_max(self.memory, 0) < len(prompt) - 1:
            self.decode(prompt[:-1])
        llama_cpp.llama_memory_seq_rm(self.memory, 0, len(prompt) - 1, -1)
        tokens: list[int] = []
        token, began = prompt[-1], time.perf_counter()
        while len(tokens) < count:
            self.decode([token])
            token = llama_cpp.llama_sampler_sample(self.sampler, self.context, -1)
            tokens.append(token)
        return time.perf_counter() - began, tokens

    def decode(self, tokens: list[int]) -> None:
        """Put tokens behind those that are kept."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(ctypes.cast(array, ctypes.POINTER(llama_cpp.llama_token)), len(tokens))
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("the bare loop's decode failed")


class BareProcess:
    """A `BareLoop` in a process of its own; it sleeps between two runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, prompt: list[int], count: int) -> tuple[float, list[int]]:
        """As `BareLoop.run`."""
        self._connection.send((prompt, count))
        answer: tuple[float, list[int]] = self._connection.recv()
        return answer


@contextmanager
def bare_process(path: Path, n_ctx: int, n_threads: int) -> Iterator[BareProcess]:
    """Start the process, and end it with the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, path, n_ctx, n_threads), daemon=True)
    process.start()
    try:
        yield BareProcess(ours)
    finally:
        ours.send(None)
        process.join()


def _serve(connection: Connection, path: Path, n_ctx: int, n_threads: int) -> None:
    loop = BareLoop(path, n_ctx, n_threads)
    while (job := connection.recv()) is not None:
        connection.send(loop.run(*job))
