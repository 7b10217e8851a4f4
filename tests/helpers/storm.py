"""Streams of two models while one of them crashes again and again: each ends with the reply of an undisturbed run.

A `Storm` has four callers for each model. Each asks for one reply after the other, of a few `asks` whose answers were
found before (`undisturbed`), one by one and by a model that nothing happened to. So all that a crash may not do shows
at once: a token that is lost, said twice, or drawn otherwise.

The models are tiny, and their contexts without flash attention and with 32-bit cells: then a reply does not depend on
who shares its batch, nor on how its beginning was cut when it was computed again (of 320 replies of 120 tokens among
others none differed, with flash attention 4 of 80 did). So every kind of request can be compared token by token, and
not those alone that are `reproducible`.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import numpy as np

import erllama_py as erllama
from erllama_py.engine.recorder import Operation
from helpers.runtime import until
from helpers.tiny_gguf import Kind, tiny_gguf

CALLERS = 4
KINDS: dict[str, Kind] = {"a": "dense", "b": "hybrid"}
GUARD_SECONDS = 60.0  # for a test gone wrong: it shall fail rather than hang
EMBEDS = ("a",)  # a caller of vectors beside them
TEXTS = ["cabbage", "kings and", "why the sea is boiling hot"]
REPLY = 96
LEAST_MEANWHILE = 3  # tokens of each caller of one model, while the other one crashes and comes back
CONTEXT: dict[str, Any] = {
    "n_ctx": 4096, "n_batch": 128, "n_ubatch": 32, "n_seq_max": CALLERS, "n_threads": 1, "n_threads_batch": 1,
    "flash_attn": False, "type_k": "f32", "type_v": "f32",
}  # fmt: skip
POLICY = {"min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4, "continued_interval": 24}
RESTARTS = {"intensity": 1000, "period": 1.0, "backoff_max": 0.0}  # a model that crashes on purpose is not given up
SCHEMA = {
    "type": "object", "required": ["name", "parts"], "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "parts": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 9},
    },
}  # fmt: skip
WAYS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 7},
    {"temperature": 0.7, "seed": 11, "json_schema": SCHEMA, "ignore_eos": False},
    {"temperature": 0.8, "seed": 3, "repetition_penalty": 1.1, "logprobs": 2},
    {"temperature": 0.6, "seed": 5, "stop_sequences": ["q", "Z"]},
    {"temperature": 0.0, "reproducible": True},
)


class Ask(NamedTuple):
    """One request; a turn of a session where `more` is what its second turn adds."""

    number: int
    prompt: tuple[int, ...]
    more: tuple[int, ...]
    options: Mapping[str, Any]


_BRIEF = {"response_tokens": 2, "ignore_eos": True, "temperature": 0.0}
_LONG_PROMPT, _SHORT_PROMPT = tuple(b"once upon a time, " * 40), tuple(b"once more")
# What makes an operation come that comes seldom: asked again and again, with another salt where nothing may be known.
NEEDS: dict[Operation, Ask] = {
    "prefill": Ask(-1, _LONG_PROMPT, (), _BRIEF),
    "capture": Ask(-1, _LONG_PROMPT, (), _BRIEF),
    "restore": Ask(-1, _LONG_PROMPT, (), _BRIEF),
    "sampler": Ask(-2, _SHORT_PROMPT, (), {**_BRIEF, "json_schema": SCHEMA, "ignore_eos": False}),
}


class Answer(NamedTuple):
    """What a reply is compared by."""

    generated: list[int]
    text: str
    reason: str


class Truth(NamedTuple):
    """What a model says that nothing happens to."""

    answers: dict[int, list[Answer]]
    vectors: Any


Read = Callable[[Sequence[int], Mapping[str, Any]], Awaitable[Answer]]
"""How the reply to a prompt is had."""


def crashes(usually: int) -> int:
    """How many a test has: `ERLLAMA_CRASHES` of the environment, or what is good for every day."""
    return int(os.environ.get("ERLLAMA_CRASHES", usually))


def config(model_id: str, folder: Path, **more: Any) -> Any:
    """Of one of the models; `more` goes into its configuration."""
    return {
        "model_path": tiny_gguf(KINDS[model_id], folder), "context_opts": CONTEXT, "policy": POLICY,
        "restarts": RESTARTS, **more,
    }  # fmt: skip


def asks(count: int = 2 * len(WAYS), seed: int = 0) -> list[Ask]:
    """Prompts of letters, every second of them the beginning of a conversation of two turns."""
    pick, found = random.Random(seed), list[Ask]()

    def letters(length: int) -> tuple[int, ...]:
        return tuple(pick.choices(range(97, 123), k=length))

    for number in range(count):
        way = {"response_tokens": REPLY, "ignore_eos": True} | WAYS[number % len(WAYS)]
        found.append(Ask(number, letters(pick.randrange(8, 120)), letters(12) if number % 2 else (), way))
    return found


async def truth_of(model: erllama.Model, asked: Sequence[Ask]) -> Truth:
    """What a model says when nothing happens to it, to one request after the other."""

    async def read(prompt: Sequence[int], options: Mapping[str, Any]) -> Answer:
        return answer(await model.complete(list(prompt), **options))

    known = {ask.number: ask for ask in (*asked, *NEEDS.values())}
    return Truth({number: await conversation(ask, read) for number, ask in known.items()}, await vectors_of(model))


async def vectors_of(model: erllama.Model) -> Any:
    """Those of some texts."""
    return (await model.embed(TEXTS)).vectors


async def undisturbed(folder: Path, asked: Sequence[Ask]) -> dict[str, Truth]:
    """The truth of each model, found in a runtime of their own."""
    async with erllama.Runtime() as runtime:
        return {
            model_id: await truth_of(await runtime.load_model(model_id, config(model_id, folder)), asked)
            for model_id in KINDS
        }


async def conversation(ask: Ask, read: Read, session_id: str | None = None) -> list[Answer]:
    """The one or two replies to what is asked."""
    options: dict[str, Any] = dict(ask.options)
    if ask.more and session_id is not None and not options.get("reproducible"):
        options |= {"session_id": session_id}
    found = [await read(ask.prompt, options)]
    if ask.more:
        found.append(await read((*ask.prompt, *found[0].generated, *ask.more), options))
    return found


def answer(reply: erllama.Completion) -> Answer:
    return Answer(reply.generated, reply.reply, reply.finish_reason)


class Storm:
    """See the module. `told` is how many tokens each caller was told of, `done` counts replies by why they ended."""

    def __init__(
        self, models: Mapping[str, erllama.Model], asked: Sequence[Ask],
        truth: Mapping[str, Truth], seed: int = 0,
    ) -> None:  # fmt: skip
        self.told: dict[tuple[str, int], int] = {(model_id, n): 0 for model_id in models for n in range(CALLERS)}
        self.done: Counter[str] = Counter()
        self._models, self._asked, self._truth = models, asked, truth
        self._random = random.Random(seed)
        self._needed: dict[str, Operation] = {}
        self._over = False

    @asynccontextmanager
    async def blowing(self) -> AsyncIterator[None]:
        """The callers ask all the time; at the end their last replies are waited for."""
        async with anyio.create_task_group() as callers:
            for model_id, number in self.told:
                callers.start_soon(self._call, model_id, number)
            for model_id in EMBEDS:
                callers.start_soon(self._embed, model_id)
            yield
            self._over = True
            callers.cancel_scope.deadline = anyio.current_time() + GUARD_SECONDS
        assert not callers.cancel_scope.cancelled_caught, "a reply never came"

    @asynccontextmanager
    async def nobody_else_waits(self, victim: str) -> AsyncIterator[None]:
        """While the block runs, in which one model crashes and comes back, each caller of the others gets its tokens.

        In counts, which do not depend on how busy the machine is: of the same time the other model gets its share.
        """
        others = {caller: told for caller, told in self.told.items() if caller[0] != victim}
        restarts = {model_id: self._models[model_id].info.restarts for model_id, _ in others}
        yield
        gained = [self.told[caller] - told for caller, told in others.items()]
        assert min(gained) >= LEAST_MEANWHILE, f"the callers beside {victim} got {gained} tokens meanwhile"
        assert restarts == {model_id: self._models[model_id].info.restarts for model_id in restarts}

    @contextmanager
    def asking_for(self, model_id: str, operation: Operation | None) -> Iterator[None]:
        """While the block runs, all callers of a model ask for what needs an operation, once they have had their last
        reply: so it comes again and again. The others come by themselves."""
        if operation in NEEDS:
            self._needed[model_id] = operation
        yield
        self._needed.pop(model_id, None)

    async def moved(self, model_id: str, tokens: int = 1) -> None:
        """Return once each caller of a model was told of so many tokens more."""
        goals = {caller: told + tokens for caller, told in self.told.items() if caller[0] == model_id}
        await wait(lambda: all(self.told[caller] >= goal for caller, goal in goals.items()), f"{goals} {self.told}")

    def told_of(self, model_id: str) -> int:
        """Tokens of all callers of a model."""
        return sum(told for caller, told in self.told.items() if caller[0] == model_id)

    async def _call(self, model_id: str, number: int) -> None:
        model = self._models[model_id]

        async def read(prompt: Sequence[int], options: Mapping[str, Any]) -> Answer:
            return await self._read(model, (model_id, number), prompt, options)

        turn = 0
        while not self._over:
            turn += 1
            ask = await self._next_ask(model, number, turn)
            found = await conversation(ask, read, f"{number}.{turn}")
            expected = self._truth[model_id].answers[ask.number]
            assert found == expected, f"{model_id} said otherwise to {ask}:\n{found}\n{expected}"
            self.done.update(one.reason for one in found)

    async def _next_ask(self, model: erllama.Model, number: int, turn: int) -> Ask:
        needed = self._needed.get(model.id)
        if needed is None:
            return self._random.choice(self._asked)
        salt = f"{number}.{turn}"
        if needed == "restore":  # what it has asked before is saved, and in no sequence any more
            salt = str(number)
            await model.evict()
        ask = NEEDS[needed]
        return ask._replace(options={**ask.options, "cache_salt": salt})

    async def _embed(self, model_id: str) -> None:
        """One call after the other; a crash costs it nothing but time."""
        model, known = self._models[model_id], self._truth[model_id].vectors
        while not self._over:
            found = await vectors_of(model)
            assert np.allclose(found, known, atol=1e-4), f"{found} and {known}"
            self.done["embedded"] += 1

    async def _read(
        self, model: erllama.Model, caller: tuple[str, int], prompt: Sequence[int], options: Mapping[str, Any]
    ) -> Answer:
        """The reply as its stream has brought it, which is what its end says that it was."""
        tokens, text = list[int](), ""
        async with model.stream(list(prompt), **options) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    tokens += event.token_ids
                    text += event.text
                    self.told[caller] += len(event.token_ids)
        assert isinstance(event, erllama.Done)
        found = answer(event.completion)
        assert found.text == text, f"{found.text!r} came as {text!r}"
        # What ends inside a character has no text to come with.
        assert tokens == found.generated[: len(tokens)]
        return found


async def restarted(model: erllama.Model, restarts: int) -> None:
    """Wait until it has come back once more."""
    await wait(lambda: model.info.restarts > restarts, f"{model} back")


async def wait(condition: Callable[[], bool], what: str = "") -> None:
    """Until `condition` holds; fails rather than hangs. A process that comes back takes longer than a thread's turn."""
    try:
        await until(condition, GUARD_SECONDS)
    except TimeoutError:
        raise AssertionError(f"it never came: {what}") from None
