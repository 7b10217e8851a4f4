"""Prompts that no context holds: they are refused before they are tokenized, where that is known, and before each of
their tokens becomes an object."""

from __future__ import annotations

from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.token_array import TokenArray, in_pieces
from erllama_py.errors import ContextOverflow

LEAST = 4_000  # characters: fewer are tokenized in a millisecond


def check_least(vocabulary: Vocabulary, text: str, n_ctx: int | None) -> None:
    """Raises `ContextOverflow` for a text of more than `n_ctx` tokens, whatever it says. None: nothing is refused."""
    if n_ctx is not None and len(text) > LEAST and (least := vocabulary.least_tokens(text)) > n_ctx:
        raise _too_long(f"at least {least}", least, n_ctx)


def as_prompt(tokens: TokenArray, n_ctx: int | None) -> list[int]:
    """The list of them. Raises `ContextOverflow` for more than `n_ctx`."""
    check_count(len(tokens), n_ctx)
    return in_pieces(tokens)


def check_count(count: int, n_ctx: int | None) -> None:
    """Raises `ContextOverflow` for more than `n_ctx` tokens. Pure."""
    if n_ctx is not None and count > n_ctx:
        raise _too_long(str(count), count, n_ctx)


def _too_long(said: str, count: int, n_ctx: int) -> ContextOverflow:
    return ContextOverflow(f"the prompt has {said} tokens, and the context holds {n_ctx}", count, n_ctx)
