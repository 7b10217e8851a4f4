"""The floor of co-batched streams: one batch of N tokens, one decode and N greedy samplers a step, over ctypes.

The batch is filled in place, and nothing is looked at but the tokens: no text, no ends, no queues, no other thread.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import llama_cpp
from bare import BareLoop
from fresh import Answer


class BareBatch(BareLoop):
    """The bare loop for many sequences at once."""

    def __init__(self, path: Path, n_ctx: int, n_threads: int, n_streams: int) -> None:
        super().__init__(path, n_ctx, n_threads, n_seq_max=n_streams)
        self._batch = llama_cpp.llama_batch_init(n_ctx, 0, 1)

    def rate(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """Tokens a second, of all sequences together, while each gets `count` tokens after its first one."""
        llama_cpp.llama_memory_clear(self.memory, False)
        tokens = [self._first(seq_id, prompt) for seq_id, prompt in enumerate(prompts)]
        began = time.perf_counter()
        self._write_on(tokens, [len(prompt) for prompt in prompts], count)
        return len(tokens) * count / (time.perf_counter() - began)

    def own_parts(self, common: Sequence[int], own: Sequence[Sequence[int]], count: int) -> float:
        """Seconds for `count` tokens behind each of these parts, which follow `common`: that is there, and shared."""
        source = len(own)
        if llama_cpp.llama_memory_seq_pos_max(self.memory, source) + 1 != len(common):
            llama_cpp.llama_memory_clear(self.memory, False)
            self._first(source, common)
        for seq_id in range(len(own)):
            llama_cpp.llama_memory_seq_rm(self.memory, seq_id, -1, -1)
        began = time.perf_counter()
        rows = 0
        wanted: list[int] = []
        for seq_id, part in enumerate(own):
            llama_cpp.llama_memory_seq_cp(self.memory, source, seq_id, 0, len(common))
            for index, token in enumerate(part):
                self._put(rows, token, len(common) + index, seq_id, wanted=index == len(part) - 1)
                rows += 1
            wanted.append(rows - 1)
        self._batch.n_tokens = rows
        self._decode()
        tokens = [llama_cpp.llama_sampler_sample(self.sampler, self.context, row) for row in wanted]
        self._write_on(tokens, [len(common) + len(part) for part in own], count - 1)
        return time.perf_counter() - began

    def _write_on(self, tokens: list[int], positions: Sequence[int], count: int) -> None:
        self._batch.n_tokens = len(tokens)
        for step in range(count):
            for index, token in enumerate(tokens):
                self._put(index, token, positions[index] + step, index)
            self._decode()
            tokens = [llama_cpp.llama_sampler_sample(self.sampler, self.context, index) for index in range(len(tokens))]

    def _first(self, seq_id: int, prompt: Sequence[int]) -> int:
        """Read a prompt into a sequence, and draw the token behind it."""
        for index, token in enumerate(prompt):
            self._put(index, token, index, seq_id, wanted=index == len(prompt) - 1)
        self._batch.n_tokens = len(prompt)
        self._decode()
        return int(llama_cpp.llama_sampler_sample(self.sampler, self.context, -1))

    def _put(self, index: int, token: int, position: int, seq_id: int, wanted: bool = True) -> None:
        batch = self._batch
        batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, seq_id

    def _decode(self) -> None:
        if llama_cpp.llama_decode(self.context, self._batch) != 0:
            raise RuntimeError("the bare loop's decode failed")


@asynccontextmanager
async def batching(path: Path, n_ctx: int, n_threads: int, n_streams: int) -> AsyncIterator[Answer]:
    """A part: answers with what `BareBatch.rate` says."""
    loop = BareBatch(path, n_ctx, n_threads, n_streams)

    async def answer(prompts: Sequence[Sequence[int]], count: int) -> float:
        return loop.rate(prompts, count)

    yield answer


@asynccontextmanager
async def sharing(path: Path, n_ctx: int, n_threads: int, n_streams: int) -> AsyncIterator[Answer]:
    """A part: answers with what `BareBatch.own_parts` says."""
    loop = BareBatch(path, n_ctx, n_threads, n_streams + 1)

    async def answer(common: Sequence[int], own: Sequence[Sequence[int]], count: int) -> float:
        return loop.own_parts(common, own, count)

    yield answer
