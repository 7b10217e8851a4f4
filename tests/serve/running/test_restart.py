"""The same chat through a restart of the server: the next turn computes its own tokens, and nothing again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.cache import text
from helpers.server_process import Child, child
from helpers.tiny_gguf import tiny_gguf

pytestmark = pytest.mark.slow
POLICY = {"min_tokens": 16, "cold_min_tokens": 16, "boundary_align_tokens": 16, "continued_interval": 64}
QUESTIONS = ["What now? " * 5, "And then? " * 5, "Why is that? " * 5]


def chat(server: Child, messages: list[dict[str, str]]) -> dict[str, Any]:
    """One turn: its message and its counts."""
    ask = {"model": "tiny", "messages": messages, "max_tokens": 40, "temperature": 0}
    told = server.client.post("/v1/chat/completions", json=ask).json()
    return {**told["usage"], "message": told["choices"][0]["message"]}


def saved(server: Child, tokens: int) -> None:
    """Wait until all of a turn is on the disk: so many tokens with their cells, and what it was."""
    for _ in range(20_000):
        cache = server.client.get("/erllama/cache").json()
        with_cells = sum(row["tokens"] for row in cache["rows"] if row["tier"] == "disk" and row["reason"] != "turn")
        if with_cells >= tokens and cache["counters"].get("saves.turn"):
            return
    raise AssertionError(cache)


@pytest.mark.parametrize(("end", "kind"), [(signal.SIGTERM, "window"), (signal.SIGKILL, "dense")])
def test_a_chat_goes_on(tmp_path: Path, end: signal.Signals, kind: Any) -> None:
    """From its last token; SIGKILL costs no more than what was being written."""
    model = {
        "backend": "llama", "path": str(tiny_gguf(kind, tmp_path)), "policy": POLICY,
        "context_opts": {"n_ctx": 4096, "n_seq_max": 1, "n_batch": 64},
    }  # fmt: skip
    tables: Any = {"tiers": {"disk": {"kind": "disk", "root": str(tmp_path / "kv")}}}
    messages, whole = [{"role": "system", "content": text(600)}], 0
    for number, question in enumerate(QUESTIONS):
        messages.append({"role": "user", "content": question})
        with child(tmp_path, model=model, **tables) as server:
            server.ready()
            turn = chat(server, messages)
            messages.append({"role": "assistant", "content": turn["message"]["content"]})
            new, whole = turn["prompt_tokens"] - whole, turn["prompt_tokens"] + turn["completion_tokens"]
            if end == signal.SIGKILL:
                saved(server, whole - 1)  # the last token was never decoded
            server.tell(end)
            assert server.wait() == (0 if end == signal.SIGTERM else -end)
        computed = turn["prompt_tokens"] - turn["prompt_tokens_details"]["cached_tokens"]
        if number:
            assert computed <= new + 2, (number, computed, new, turn["prompt_tokens"])
