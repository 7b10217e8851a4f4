"""Many callers of one model who do everything that callers do, at random: the soak.

`Soak.round` lets the callers make so many requests, waits until nothing is under way, and checks the books; `end` gives
back what the cache holds, which works only when nothing is pinned. Owns the counts of what happened, in `done`. A
reply must agree with `truth`: what the stub says by itself, or what the same prompt was answered before.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel

import erllama_py as erllama
from helpers.backends import MEMORY
from helpers.cache import MEMORIES, stub_reply
from helpers.runtime import until
from helpers.tiny_gguf import KINDS, Kind, tiny_gguf
from helpers.watched import Watch

Truth = Callable[[Sequence[int], Sequence[int]], bool]
"""Whether a prompt may be answered, as far as it goes, by these tokens."""

CALLERS = 14
SYSTEMS = 4  # beginnings that prompts share
SESSIONS = 5
LETTERS = b"abcdefghijklmnopqrstuvwxyz "
BAD_GRAMMAR = "leaf ::= "  # no root

Subject = tuple[Literal["stub", "llama"], Kind]
SUBJECTS: tuple[Subject, ...] = (*(("stub", kind) for kind in KINDS), *(("llama", kind) for kind in KINDS))

N_CTX = 384
CONTEXT: dict[str, Any] = {
    "n_ctx": N_CTX, "n_batch": 128, "n_ubatch": 32, "n_seq_max": 4, "n_threads": 1,
    "flash_attn": False, "type_k": "f32", "type_v": "f32",  # a reply does not depend on who shares its batch
}  # fmt: skip
POLICY = {"min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4, "continued_interval": 24}
SCHEDULER = {"max_pending": 9, "session_idle_ms": 100, "turn_ms": 5}


async def soaked(runtime: erllama.Runtime, subject: Subject, folder: Path, watch: Watch, seed: int = 0) -> Soak:
    """A soak of a model of its own in `runtime`, which was made under `watch`; `folder` is for its file."""
    backend, kind = subject
    options: Any = {"context_opts": CONTEXT, "policy": POLICY, "scheduler": SCHEDULER}
    if backend == "stub":
        options |= {"backend": "stub", "stub": MEMORIES[MEMORY[kind]]}
        return Soak(runtime, await runtime.load_model("m", options), watch, by_the_stub, seed)
    options |= {"model_path": tiny_gguf(kind, folder)}
    return Soak(runtime, await runtime.load_model("m", options), watch, SameAsBefore(), seed)


def by_the_stub(prompt: Sequence[int], reply: Sequence[int]) -> bool:
    """What a stub must say."""
    return stub_reply(prompt, len(reply)) == list(reply)


class SameAsBefore:
    """A `Truth` for models whose replies cannot be predicted: a prompt is always answered alike."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, prompt: Sequence[int], reply: Sequence[int]) -> bool:
        known = self._known.setdefault(tuple(prompt), [])
        common = min(len(known), len(reply))
        if len(reply) > len(known):
            self._known[tuple(prompt)] = list(reply)
        return list(reply[:common]) == known[:common]


class Soak:
    """See the module. Lengths are chosen by `N_CTX`, so that a few requests fill it."""

    def __init__(self, runtime: erllama.Runtime, model: erllama.Model, watch: Watch, truth: Truth, seed: int) -> None:
        self._runtime, self._model, self._watch, self._truth = runtime, model, watch, truth
        self._random = random.Random(seed)
        self._left = 0  # requests of the round
        self._said: dict[str, list[int]] = {}  # what the sessions hold
        self._systems = [self._words(N_CTX // 8) for _ in range(SYSTEMS)]
        self.done: Counter[str] = Counter()

    async def round(self, requests: int) -> None:
        """So many requests, of few callers or of many; then everything must be where the books say."""
        self._left = requests
        async with anyio.create_task_group() as tasks:
            for _ in range(self._random.choice((2, 5, CALLERS))):
                tasks.start_soon(self._call)
        await self.at_rest()
        assert self._model.queue_depth == 0

    async def at_rest(self) -> None:
        """Nothing is under way; then the books and the cells must say the same."""
        await self._watch.at_rest(self._model.id)

    async def end(self) -> None:
        """Nothing is pinned and no buffer is lent any more."""
        await self._runtime.cache.flush()
        await self._runtime.cache.evict_bytes(1 << 40)
        assert await self._runtime.cache.rows() == []
        gc.collect()
        await until(lambda: self._runtime._buffers.leased == 0)

    # --- callers -------------------------------------------------------------------------------------------

    async def _call(self) -> None:
        pick = self._random
        while self._left > 0:
            self._left -= 1
            for _ in range(pick.choice((0, 0, 1, 5, 30))):  # turns of the loop until the next arrival
                await anyio.lowlevel.checkpoint()
            self.done["requests"] += 1
            try:
                await pick.choice(self.kinds())()
            except erllama.SessionBusy:
                self.done["busy"] += 1
            except erllama.QueueFull:
                self.done["queue full"] += 1
                await until(lambda: self._model.pending_len < CALLERS // 2)

    def kinds(self) -> list[Callable[[], Any]]:
        """What a caller does next: one of these."""
        return [self._plain, self._plain, self._turn, self._turn, self._turn, self._rare]

    async def _plain(self) -> None:
        prompt = [*self._random.choice(self._systems), *self._words(self._random.randrange(1, N_CTX // 8))]
        if self._random.random() < 0.2:
            prompt = self._words(self._random.randrange(1, N_CTX // 2))
        await self._ask(prompt)

    async def _turn(self) -> None:
        pick, session_id = self._random, f"s{self._random.randrange(SESSIONS)}"
        said = self._said.get(session_id, [])
        if pick.random() < 0.1:
            await self._model.end_session(session_id)
            self.done["sessions ended"] += 1
        if pick.random() < 0.1:
            said = said[: pick.randrange(len(said) + 1)]
        prompt = [*(said or pick.choice(self._systems)), *self._words(pick.randrange(1, 20))]
        if len(prompt) > N_CTX // 2:
            prompt = self._words(20)
        reply = await self._ask(prompt, session_id=session_id, session_wait=pick.random() < 0.5)
        if reply is not None:
            self._said[session_id] = [*prompt, *reply.generated]

    async def _rare(self) -> None:
        pick = self._random
        match pick.choice(("too long", "bad grammar", "evict", "evict rows", "prefill only")):
            case "too long":
                try:
                    await self._model.complete(self._words(N_CTX), temperature=0.0)
                except erllama.ContextOverflow:
                    self.done["too long"] += 1
            case "bad grammar":
                try:
                    await self._model.complete(self._words(30), grammar=BAD_GRAMMAR)
                except erllama.InvalidGrammar:
                    self.done["bad grammar"] += 1
            case "evict":
                await self._runtime.evict(self._model)
                self.done["evicted"] += 1
            case "evict rows":
                await self._runtime.cache.evict_bytes(pick.choice((1 << 10, 1 << 14, 1 << 30)))
                self.done["rows evicted"] += 1
            case _:
                await self._model.prefill_only([*pick.choice(self._systems), *self._words(10)])

    async def _ask(self, prompt: list[int], **options: Any) -> erllama.Completion | None:
        pick = self._random
        options |= {
            "temperature": 0.0,
            "priority": pick.choice((0, 0, 0, 1, -1)),
            "queue_wait": pick.choice((0, 0.01, True)),
        }
        options["response_tokens"] = pick.randrange(1, N_CTX // 3)
        if pick.random() < 0.1:
            options["deadline"] = pick.choice((1e-6, 0.002, 0.01))
        reply: erllama.Completion | None = None
        match pick.choice(("complete", "complete", "stream", "stream", "cancel", "leave", "give up")):
            case "complete":
                reply = await self._model.complete(prompt, **options)
            case "stream":
                reply = await self._read(prompt, options)
            case "cancel":
                reply = await self._read(prompt, options, cancel_at=pick.randrange(20))
            case "leave":
                async with self._model.stream(prompt, **options) as events:
                    for _ in range(pick.randrange(20)):
                        if await anext(events, None) is None:
                            break
                self.done["left"] += 1
            case _:
                await self._give_up(prompt, options)
        if reply is not None:
            self._take_in(prompt, reply)
        return reply

    async def _read(
        self, prompt: list[int], options: dict[str, Any], cancel_at: int | None = None
    ) -> erllama.Completion:
        tokens: list[int] = []
        async with self._model.stream(prompt, **options) as events:
            number = 0
            async for event in events:
                if number == cancel_at:
                    events.cancel()
                number += 1
                if isinstance(event, erllama.TextDelta):
                    tokens += event.token_ids
        assert isinstance(event, erllama.Done)
        # What ends inside a character has no text to come with.
        assert tokens == event.completion.generated[: len(tokens)]
        return event.completion

    async def _give_up(self, prompt: list[int], options: dict[str, Any]) -> None:
        """A caller whose task is cancelled."""
        asked = asyncio.create_task(self._model.complete(prompt, **options))
        for _ in range(self._random.randrange(60)):
            await anyio.lowlevel.checkpoint()
        asked.cancel()
        try:
            self._take_in(prompt, await asked)
        except asyncio.CancelledError:
            self.done["gave up"] += 1

    def _take_in(self, prompt: list[int], reply: erllama.Completion) -> None:
        stats = reply.stats
        self.done[reply.finish_reason] += 1
        self.done[reply.cache_hit_kind] += 1
        self.done["parks"] += stats.parks
        self.done["restored"] += stats.restored_bytes > 0
        assert self._truth(prompt, reply.generated), f"{prompt} was answered otherwise: {reply}"

    def _words(self, length: int) -> list[int]:
        return list(self._random.choices(LETTERS, k=length))
