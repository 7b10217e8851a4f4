"""The calls that a `Fuzz` makes, with arguments at random: of models, by handle and by id, of the runtime, the cache.

Two kinds of mistakes are among them: what is refused, and what comes at a wrong moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

import erllama_py as erllama
from erllama_py.scheduler.messages import FaultPlace
from helpers.soak import BAD_GRAMMAR
from helpers.tool_runs import a_run

IDS = ("m", "n", "o", "p", "q", "nobody")
SESSIONS, TIERS, IDENTITY = ("s", "t", None), ("d", "e"), erllama.Identity(bytes(32), 16, bytes(32))
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
CONTINUATIONS = ["so", " and so on", "."]
EMBEDS: Any = ({}, {}, {"deadline": 0.003}, {"pooling": "none"}, {"dimensions": 3}, {"dimensions": 1 << 20},
               {"on_crash": "fail"})  # fmt: skip
TEXT = "all that a prompt begins with, long enough for rows " * 3

Call = Callable[[Any, random.Random], object]
"""Of a `Fuzz`, and what picks the arguments."""


def prompt(pick: random.Random) -> str:
    """Texts that begin alike, of up to some rows."""
    return TEXT[: pick.choice((5, 40, 120, 150))] + str(pick.randrange(4))


def messages(pick: random.Random) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt(pick)}]


def options(pick: random.Random, session: bool = True) -> dict[str, Any]:
    given: dict[str, Any] = {"response_tokens": pick.choice((1, 3, 30)), "seed": pick.randrange(9)}
    if session:
        given["session_id"], given["session_wait"] = pick.choice(SESSIONS), pick.random() < 0.5
    rare = pick.choice(
        ({}, {}, {}, {"deadline": pick.choice((1e-6, 0.003))}, {"priority": pick.choice((-1, 5))},
         {"queue_wait": pick.choice((True, 0.001))}, {"grammar": BAD_GRAMMAR}, {"cache_salt": "another"})
    )  # fmt: skip
    return given | rare | _of_the_draw(pick) | {"reproducible": pick.random() < 0.3} | _of_crashes(pick)


def _of_crashes(pick: random.Random) -> dict[str, Any]:
    """Half of the calls go on, half are to fail."""
    return pick.choice(({}, {"on_crash": "fail"}))


def _of_the_draw(pick: random.Random) -> dict[str, Any]:
    """What is drawn, and what is told of it; some of these are refused beside others."""
    return pick.choice(
        ({}, {}, {"n": pick.choice((2, 3))}, {"logprobs": 2, "logprobs_after": pick.random() < 0.5},
         {"prompt_logprobs": 1}, {"stop_token_ids": [pick.randrange(200)]}, {"json_schema": SCHEMA},
         {"thinking_markers": ["e", "a"], "thinking_budget_tokens": pick.choice((0, 1, 9)),
          "thinking_budget_message": pick.choice((None, "so"))}, {"thinking": pick.random() < 0.5},
         {"regex": "[a-z]{2,9}", "n": 2}, {"choice": ["all", "or nothing"]}, {"special": True, "min_tokens": 1})
    )  # fmt: skip


def score_options(pick: random.Random) -> dict[str, Any]:
    """Those of scores, some of which are refused."""
    return pick.choice(
        ({}, {}, {"deadline": pick.choice((1e-6, 0.003))}, {"priority": 5}, {"queue_wait": True}, {"seed": 1},
         {"cache_salt": "another"}, {"on_crash": "fail"})
    )  # fmt: skip


async def read(stream: erllama.Stream | erllama.ToolRun, pick: random.Random) -> None:
    """Some events, or all, or the text alone; then the block is left, or the request cancelled."""
    how, most = pick.choice(("leave", "cancel", "all", "text")), pick.choice((0, 1, 3))
    async with stream as events:
        if how == "text" and isinstance(events, erllama.Stream):
            async for _ in events.text:
                pass
            return
        async for _ in events:
            most -= 1
            if how == "leave" and most < 0:
                return
            if how == "cancel" and most < 0:
                events.cancel()
            if how == "all" and most == 0 and isinstance(events, erllama.Stream):
                events.end_thinking()


async def converse(session: erllama.Session, pick: random.Random) -> None:
    """A few turns of all kinds."""
    async with session:
        for _ in range(pick.randrange(4)):
            given = options(pick, session=False)
            match pick.choice(("chat", "complete", "stream_chat", "stream", "end")):
                case "chat":
                    await session.chat(prompt(pick), **given)
                case "complete":
                    await session.complete(prompt(pick), **given)
                case "stream_chat":
                    await read(session.stream_chat(prompt(pick), **given), pick)
                case "stream":
                    await read(session.stream(prompt(pick), **given), pick)
                case "end":
                    await session.end()


MODEL_CALLS: dict[str, Callable[[Any, random.Random], object]] = {
    "complete": lambda m, pick: m.complete(prompt(pick), **options(pick)),
    "chat": lambda m, pick: m.chat(messages(pick), **options(pick)),
    "stream": lambda m, pick: read(m.stream(prompt(pick), **options(pick)), pick),
    "stream_chat": lambda m, pick: read(m.stream_chat(messages(pick), **options(pick)), pick),
    "session": lambda m, pick: converse(m.session(pick.choice(SESSIONS)), pick),
    "run_tools": lambda m, pick: read(a_run(m, prompt(pick), options(pick), pick), pick),
    "prefill_only": lambda m, pick: m.prefill_only(prompt(pick), reproducible=pick.random() < 0.3),
    "score": lambda m, pick: m.score(prompt(pick), CONTINUATIONS[: pick.randrange(4)], **score_options(pick)),
    "choose": lambda m, pick: m.choose(messages(pick), CONTINUATIONS, **score_options(pick)),
    "embed": lambda m, pick: m.embed(CONTINUATIONS[: pick.randrange(4)], **pick.choice(EMBEDS)),
    "rerank": lambda m, pick: m.rerank(prompt(pick), CONTINUATIONS, method=pick.choice((None, "embeddings", "score"))),
    "cancel": lambda m, pick: m.cancel(pick.randrange(200)),
    "end_session": lambda m, pick: m.end_session("s"),
    "end_thinking": lambda m, pick: m.end_thinking(pick.randrange(1, 400)),
    "verify_thinking": lambda m, pick: m.verify_thinking(prompt(pick), "00"),
    "inject_fault": lambda m, pick: m.inject_fault(pick.choice(get_args(FaultPlace))),
    "evict": lambda m, pick: m.evict(),
    "unload": lambda m, pick: m.unload(),
    "tokenize": lambda m, pick: m.tokenize(prompt(pick)),
    "detokenize": lambda m, pick: m.detokenize([97, 98]),
    "apply_chat_template": lambda m, pick: m.apply_chat_template(messages(pick)),
    "chat_format": lambda m, pick: m.chat_format(),
    "explain": lambda m, pick: m.explain(prompt(pick), session_id=pick.choice(SESSIONS)),
    "list_cached_prefixes": lambda m, pick: m.list_cached_prefixes([*TEXT.encode()]),
}
RUNTIME_CALLS: dict[str, Call] = {
    "load_model": lambda fuzz, pick: pick.choice((fuzz.load, fuzz.reload))(pick),
    "supervise": lambda fuzz, pick: fuzz.supervise(pick),
    "start_tier": lambda fuzz, pick: fuzz.start_tier(pick),
    "stop_tier": lambda fuzz, pick: fuzz.runtime.stop_tier(pick.choice(TIERS)),
    "tree": lambda fuzz, pick: str(fuzz.runtime.tree()),
    "list_models": lambda fuzz, pick: fuzz.runtime.list_models(),
    "pressure": lambda fuzz, pick: fuzz.runtime.pressure(),
}
PROBES = ("model", "model_info", "model_counters", "model_sequences", "phase", "pending_len", "queue_depth",
          "last_cache_hit")  # fmt: skip
CACHE_CALLS: dict[str, Callable[[Any, random.Random], object]] = {
    "counters": lambda cache, pick: cache.counters(),
    "rows": lambda cache, pick: cache.rows(),
    "tiers": lambda cache, pick: cache.tiers(),
    "evict_bytes": lambda cache, pick: cache.evict_bytes(pick.choice((1, 1 << 40))),
    "gc": lambda cache, pick: cache.gc(),
    "remove": lambda cache, pick: cache.remove([bytes(32)], pick.choice(("ram", "d"))),
    "flush": lambda cache, pick: cache.flush(),
    "put": lambda cache, pick: cache.put(IDENTITY, [1, 2], 0, bytes(100), tier=pick.choice(("ram", "d"))),
    "find": lambda cache, pick: cache.find(IDENTITY, [1, 2]),
    "read": lambda cache, pick: cache.read(bytes(32), "ram"),
}


class ById:  # a model's methods by its id
    def __init__(self, runtime: erllama.Runtime, model_id: str) -> None:
        self._runtime, self._model_id = runtime, model_id

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            return getattr(self._runtime, name)(self._model_id, *args, **given)

        return call


def _by_handle(call: Callable[[Any, random.Random], object]) -> Call:
    return lambda fuzz, pick: call(fuzz.model(pick), pick)


def _by_id(call: Callable[[Any, random.Random], object]) -> Call:
    return lambda fuzz, pick: call(ById(fuzz.runtime, pick.choice(IDS)), pick)


def _of_the_cache(call: Callable[[Any, random.Random], object]) -> Call:
    return lambda fuzz, pick: call(fuzz.runtime.cache, pick)


def _probe(name: str) -> Call:
    return lambda fuzz, pick: getattr(fuzz.runtime, name)(pick.choice(IDS))


CALLS: dict[str, Call] = {
    **{f"Model.{name}": _by_handle(call) for name, call in MODEL_CALLS.items()},
    **{f"Runtime.{name}": _by_id(call) for name, call in MODEL_CALLS.items()},
    **{f"Runtime.{name}": call for name, call in RUNTIME_CALLS.items()},
    **{f"Runtime.{name}": _probe(name) for name in PROBES},
    **{f"Cache.{name}": _of_the_cache(call) for name, call in CACHE_CALLS.items()},
    "a crash of the cache": lambda fuzz, pick: fuzz.crash_a_part(pick),
    "the end of a process": lambda fuzz, pick: fuzz.end_a_process(pick),
}
ASKING = (".complete", ".chat", ".stream", ".stream_chat", ".session")
RARE = (".unload", ".stop_tier", "a crash of the cache", ".evict_bytes")
WEIGHTS = [4.0 if name.endswith(ASKING) else 0.3 if name.endswith(RARE) else 1.0 for name in CALLS]
