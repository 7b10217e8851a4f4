"""A call of each public method: for what must hold of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import anyio

import erllama_py as erllama
from erllama_py.cache.handle import Cache
from helpers.runtime import STUB

IDENTITY = erllama.Identity(bytes(32), 16, bytes(32))
MESSAGES = [{"role": "user", "content": "hello"}]


def public(thing: type, but: set[str]) -> set[str]:
    """Its public methods: what may be called, and is no probe."""
    members = {name: value for name, value in inspect.getmembers(thing) if not name.startswith("_")}
    return {name for name, value in members.items() if not isinstance(value, property) and name not in but}


# What only makes something, and touches nothing of the runtime before that is used.
MADE_ANYWHERE = {"run_tools", "stream", "stream_chat", "session"}


def model_calls(model: erllama.Model) -> dict[str, Callable[[], object]]:
    """A call of each public method of a model."""
    return {
        "complete": lambda: model.complete("hello"),
        "chat": lambda: model.chat(MESSAGES),
        "prefill_only": lambda: model.prefill_only("hello"),
        "score": lambda: model.score("hello", ["so it is", "no"]),
        "choose": lambda: model.choose("hello", ["yes", "no"]),
        "embed": lambda: model.embed(["hello", "you"]),
        "rerank": lambda: model.rerank("hello", ["hello you", "no"], method="embeddings"),
        "cancel": lambda: model.cancel(1),
        "end_session": lambda: model.end_session("s"),
        "end_thinking": lambda: model.end_thinking(1),
        "verify_thinking": lambda: model.verify_thinking("hm", "00"),
        "evict": lambda: model.evict(),
        "unload": lambda: model.unload(),
        "inject_fault": lambda: model.inject_fault(),
        "tokenize": lambda: model.tokenize("hello"),
        "detokenize": lambda: model.detokenize([1]),
        "apply_chat_template": lambda: model.apply_chat_template(MESSAGES),
        "chat_format": lambda: model.chat_format(),
        "explain": lambda: model.explain("hello"),
        "list_cached_prefixes": lambda: model.list_cached_prefixes([1]),
    }


def runtime_calls(runtime: erllama.Runtime) -> dict[str, Callable[[], object]]:
    """A call of each public method of a runtime."""
    probes = ("model", "model_info", "model_counters", "model_sequences", "phase", "pending_len", "last_cache_hit")
    by_id = {
        name: (lambda name=name: getattr(runtime, name)("m"))
        for name in (*probes, "evict", "unload", "inject_fault", "chat_format")
    }
    for name in ("complete", "stream", "prefill_only", "embed", "tokenize", "explain"):
        by_id[name] = lambda name=name: getattr(runtime, name)("m", "hello")
    for name in ("chat", "stream_chat", "apply_chat_template"):
        by_id[name] = lambda name=name: getattr(runtime, name)("m", MESSAGES)
    for name in ("score", "choose", "rerank"):
        by_id[name] = lambda name=name: getattr(runtime, name)("m", "hello", ["yes", "no"])
    for name in ("detokenize", "list_cached_prefixes"):
        by_id[name] = lambda name=name: getattr(runtime, name)("m", [1])
    return by_id | {
        "chat_format": lambda: runtime.chat_format("m"),
        "session": lambda: runtime.session("m"),
        "run_tools": lambda: runtime.run_tools("m", MESSAGES, tools=[{"name": "add"}]),
        "cancel": lambda: runtime.cancel("m", 1),
        "end_session": lambda: runtime.end_session("m", "s"),
        "end_thinking": lambda: runtime.end_thinking("m", 1),
        "verify_thinking": lambda: runtime.verify_thinking("m", "hm", "00"),
        "load_model": lambda: runtime.load_model("n", STUB),
        "list_models": runtime.list_models,
        "queue_depth": runtime.queue_depth,
        "start_tier": lambda: runtime.start_tier("d", {"kind": "ram_file", "root": "nowhere"}),
        "stop_tier": lambda: runtime.stop_tier("d"),
        "pressure": runtime.pressure,
        "supervise": lambda: runtime.supervise("loop", anyio.sleep_forever),
        "tree": runtime.tree,
    }


def cache_calls(cache: Cache) -> dict[str, Callable[[], object]]:
    """A call of each public method of the cache's handle."""
    return {
        "counters": cache.counters,
        "rows": cache.rows,
        "tiers": cache.tiers,
        "evict_bytes": lambda: cache.evict_bytes(1),
        "gc": cache.gc,
        "remove": lambda: cache.remove([bytes(32)], "ram"),
        "flush": cache.flush,
        "put": lambda: cache.put(IDENTITY, [1, 2], 0, b"bytes"),
        "find": lambda: cache.find(IDENTITY, [1, 2]),
        "read": lambda: cache.read(bytes(32), "ram"),
    }
