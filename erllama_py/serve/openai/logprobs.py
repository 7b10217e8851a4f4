"""How likely tokens were, as OpenAI's clients read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import erllama_py as erllama


def chat_logprobs(tokens: list[erllama.TokenLogprob] | None) -> dict[str, Any] | None:
    """As chats have it; those of a reply's thinking and calls are told too."""
    return None if tokens is None else {"content": [_with_top(token) for token in tokens], "refusal": None}


def _with_top(token: erllama.TokenLogprob) -> dict[str, Any]:
    return _one(token) | {"top_logprobs": [_one(top) for top in token.top_logprobs]}


def _one(token: erllama.TopLogprob) -> dict[str, Any]:
    return {"token": token.token, "bytes": list(bytes.fromhex(token.bytes)), "logprob": token.logprob}


def plain_logprobs(tokens: Iterable[erllama.TokenLogprob | None], offset: int = 0, first: str = "") -> dict[str, Any]:
    """As plain completions have it; None stands for the first token of a prompt, of which `first`, its text, is known.

    `offset` is where in the text the first token begins, in characters.
    """
    columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        columns["text_offset"].append(offset)
        text = first if token is None else token.token
        columns["tokens"].append(text)
        columns["token_logprobs"].append(None if token is None else token.logprob)
        top = None if token is None else {one.token: one.logprob for one in token.top_logprobs}
        columns["top_logprobs"].append(top)
        offset += len(text)
    return dict(columns)
