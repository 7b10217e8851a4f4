"""From what a caller passes to a `Request`, and from what the engine reports to a `Completion`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.config import RequestOptions
from erllama_py.engine.backend import Sampling
from erllama_py.errors import ContextOverflow, EmptyPrompt, RequestError, TokenOutOfRange
from erllama_py.model.messages import Complete, Request
from erllama_py.results import CacheDelta, Completion, Stats


def check_is_tokens(tokens: object) -> Sequence[object]:
    """`tokens`, if it is a sequence that can hold token ids. Raises `RequestError`."""
    if isinstance(tokens, Sequence) and not isinstance(tokens, str | bytes | bytearray):
        return tokens
    raise RequestError(f"a list of token ids is expected (a prompt may also be a str), not {type(tokens).__name__}")


def check_tokens(tokens: Sequence[object], n_vocab: int) -> list[int]:
    """`tokens` as a list of ids. Raises `TokenOutOfRange`, or `RequestError` for what is no integer."""
    checked: list[int] = []
    for token in tokens:
        # bool is an int to Python, but True is no token.
        if not isinstance(token, int) or isinstance(token, bool):
            raise RequestError(f"a token id is an int, not {type(token).__name__}")
        if not 0 <= token < n_vocab:
            raise TokenOutOfRange(f"token {token} is not in the vocabulary of {n_vocab} tokens", token, n_vocab)
        checked.append(token)
    return checked


def make_request(
    request_id: int, tokens: list[int], options: RequestOptions, *, n_ctx: int, seed: int, now: float
) -> Request:
    """Fit a prompt into the context of `n_ctx` tokens; the reply gets what is left, or what was asked for.

    Raises `EmptyPrompt` and `ContextOverflow`.
    """
    if not tokens:
        raise EmptyPrompt("the prompt has no tokens")
    room = n_ctx - len(tokens)
    if room < 1:
        problem = f"the prompt has {len(tokens)} tokens, and the context of {n_ctx} must hold one more for the reply"
        raise ContextOverflow(problem, len(tokens), n_ctx)
    return Request(
        id=request_id,
        tokens=tokens,
        max_new_tokens=min(options.response_tokens or room, room),
        sampling=Sampling(
            grammar=options.grammar,
            repetition_penalty=options.repetition_penalty,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            temperature=options.temperature,
            seed=seed,
        ),
        stop_sequences=options.stop_sequences,
        submitted_at=now,
    )


def make_completion(answer: Complete, now: float) -> Completion:
    """The result of a request that came to an end by itself or was cancelled, at whatever stage."""
    request, finished = answer.request, answer.finished
    queued = (now if answer.started_at is None else answer.started_at) - request.submitted_at
    generated = [] if finished is None else finished.token_ids
    prefill_seconds = 0.0 if finished is None else finished.prefill_seconds
    decode_seconds = 0.0 if finished is None else finished.decode_seconds
    decodes = 0 if finished is None else finished.decodes
    return Completion(
        reply="" if finished is None else finished.text,
        generated=generated,
        prompt_tokens=len(request.tokens),
        context_tokens=len(request.tokens) + len(generated),
        committed_tokens=0 if finished is None else finished.held,
        finish_key=None,
        cache_hit_kind=answer.hit.kind,
        finish_reason="cancelled" if finished is None else finished.reason,
        stop_sequence=None if finished is None else finished.stop_sequence,
        cache_delta=CacheDelta(read=answer.hit.prefix_len, created=0),
        stats=Stats(
            queued_seconds=queued,
            prefill_seconds=prefill_seconds,
            decode_seconds=decode_seconds,
            first_token_seconds=queued + prefill_seconds,
            prefill_tokens=0 if finished is None else finished.prefill_tokens,
            decodes=decodes,
            tokens_per_second=decodes / decode_seconds if decodes else 0.0,
            seed=request.sampling.seed,
            tier=None,
            miss_reason=answer.miss_reason,
        ),
    )
