"""What callers pass as a `Request`, and what the engine reports as a `Completion` and as rows. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from erllama_py.cache.keys import TOKEN_BYTES, Identity, pack_tokens, prefix_keys
from erllama_py.cache.messages import RowMeta
from erllama_py.cache.policy import LEAST_ROW_TOKENS, KeepFor, grid_stride, least_opening, prompt_ends, turn_ends
from erllama_py.chat.segments import Markers
from erllama_py.engine.backend import ModelFacts
from erllama_py.engine.jobs import CapturePlan, Finished, Report
from erllama_py.errors import ContextOverflow, EmptyPrompt, RequestError, TokenOutOfRange
from erllama_py.options.policy import PolicyOpts
from erllama_py.options.request import DEFAULT_RESPONSE_TOKENS, RequestOptions
from erllama_py.options.sampling import Sampling
from erllama_py.results import CacheDelta, CacheHit, Completion, FinishReason, KeptPrefix, Stats, ToolCall
from erllama_py.scheduler.messages import Complete, Outline, Request, SaveRow

# What the engine would report of a request that was cancelled before it saw it.
UNSEEN = Finished(
    request_id=0, reason="cancelled", stop_sequence=None, text="", token_ids=[], held=0, first_held=-1, captured_to=0,
    prefill_tokens=0, prefill_seconds=0.0, decode_seconds=0.0, decodes=0,
)  # fmt: skip


_GO_TO_CHAT = "; messages go to `chat`"
_ARE_SEVERAL = "; several texts are several calls"


def check_is_tokens(tokens: object, expected: str = "expected a list of token ids") -> Sequence[object]:
    """`tokens`, if it is a sequence that can hold token ids. Raises `RequestError`."""
    if isinstance(tokens, Sequence) and not isinstance(tokens, str | bytes | bytearray):
        return tokens
    raise RequestError(f"{expected}, not {type(tokens).__name__}{_GO_TO_CHAT if isinstance(tokens, Mapping) else ''}")


def check_tokens(tokens: Sequence[object], n_vocab: int) -> list[int]:
    """`tokens` as a list of ids. Raises `TokenOutOfRange`, or `RequestError` for what is no integer."""
    checked: list[int] = []
    for token in tokens:
        # bool is an int to Python, but True is no token.
        if not isinstance(token, int) or isinstance(token, bool):
            hint = _GO_TO_CHAT if isinstance(token, Mapping) else _ARE_SEVERAL if isinstance(token, str) else ""
            raise RequestError(f"a token id is an int, not {type(token).__name__}{hint}")
        if not 0 <= token < n_vocab:
            raise TokenOutOfRange(f"token {token} is not in the vocabulary of {n_vocab} tokens", token, n_vocab)
        checked.append(token)
    return checked


def make_request(
    request_id: int, tokens: list[int], options: RequestOptions, *, identity: Identity, plan: CapturePlan | None,
    policy: PolicyOpts, n_ctx: int, seed: int, now: float, prefill_only: bool = False, markers: Markers | None = None,
    keeps: tuple[KeepFor, ...] = (),
) -> Request:  # fmt: skip
    """Fit a prompt into the context of `n_ctx` tokens; the reply gets what is left, or what was asked for.

    Raises `EmptyPrompt` and `ContextOverflow`.
    """
    if not tokens:
        raise EmptyPrompt("the prompt has no tokens")
    room = n_ctx - len(tokens)
    if room < 1 - prefill_only:
        lacks = "has no room for them" if prefill_only else "must hold one more for the reply"
        problem = f"the prompt has {len(tokens)} tokens, and the context of {n_ctx} {lacks}"
        raise ContextOverflow(problem, len(tokens), n_ctx)
    packed = pack_tokens(tokens)
    return Request(
        id=request_id,
        tokens=tokens,
        max_new_tokens=0 if prefill_only else min(options.response_tokens or DEFAULT_RESPONSE_TOKENS, room),
        sampling=Sampling(**{name: getattr(options, name) for name in Sampling.__struct_fields__} | {"seed": seed}),
        stop_sequences=options.stop_sequences,
        report=_report(options),
        markers=markers,
        submitted_at=now,
        identity=identity,
        packed=packed,
        key=prefix_keys(identity, packed, (len(tokens),))[0],
        plan=plan,
        keeps=keeps,
        parent_key=options.parent_key,
        wait_seconds=policy.session_resume_wait_ms / 1000,
        priority=options.priority,
        session_id=options.session_id,
        session_wait=options.session_wait,
        queue_wait=math.inf if options.queue_wait is True else float(options.queue_wait),
    )  # fmt: skip


def capture_plan(
    n_tokens: int, policy: PolicyOpts, facts: ModelFacts, anchors: Sequence[int], endings: Sequence[int] = (), *,
    reproducible: bool = False,
) -> CapturePlan | None:  # fmt: skip
    """What is to be saved of a prompt and its reply; None when nothing is. `endings` are those of `chat.endings`.

    Of a `reproducible` one only what lies between ends of the grid: its other cells depend on where the prompt ends.
    """
    if policy.min_tokens is None:
        return None
    stride = grid_stride(policy, facts.state_bytes)
    if reproducible:
        ends, reply_from = prompt_ends(n_tokens, policy, (), stride=stride, last=()), 0
    else:
        last = turn_ends(n_tokens, endings, least=least_opening(facts.state_bytes, cuttable=facts.memory == "full"))
        ends = prompt_ends(n_tokens, policy, anchors, stride=stride, last=last)
        reply_from = last[-1] if last[-1] >= LEAST_ROW_TOKENS else 0
    # With a window beside the state, what is saved may not be there any more to be copied out once more.
    carried = facts.memory in ("recurrent", "hybrid") and not (facts.n_swa or reproducible)
    return CapturePlan(
        captured_to=0, prompt_ends=ends, interval=policy.continued_interval, min_tokens=policy.min_tokens,
        reply_from=reply_from, prompt_only=reproducible, apart=stride if carried else 0,
    )  # fmt: skip


def make_completion(answer: Complete, now: float, early: FinishReason = "cancelled") -> Completion:
    """The result of a request that came to an end by itself or was cancelled, at whatever stage, and `early` why."""
    request, finished, outline = answer.request, answer.finished or UNSEEN, answer.outline
    queued = (now if answer.started_at is None else answer.started_at) - request.submitted_at
    generated, finish_key = [*finished.token_ids], None
    if answer.saved_end is not None:
        tokens = request.packed + pack_tokens(generated)
        finish_key = prefix_keys(request.identity, tokens, (answer.saved_end,))[0].hex()
    return Completion(
        reply=finished.text,
        thinking=finished.thinking,
        tool_calls=tuple(ToolCall(id="", name="", arguments={}, text=text) for text in finished.calls),
        generated=generated,
        prompt_tokens=len(request.tokens),
        context_tokens=len(request.tokens) + len(generated),
        committed_tokens=finished.held,
        finish_key=finish_key,
        cache_hit_kind=outline.hit.kind,
        finish_reason=early if finished.reason == "cancelled" else finished.reason,
        stop_sequence=finished.stop_sequence,
        stop_token_id=finished.stop_token_id,
        prompt_logprobs=None if request.report.prompt_logprobs is None else [*(finished.prompt_logprobs or ())],
        logprobs=None if request.report.logprobs is None else [*(finished.logprobs or ())],
        cache_delta=CacheDelta(read=outline.hit.prefix_len, created=outline.created),
        kept=_kept(request, outline),
        stats=Stats(
            queued_seconds=queued, lookup_seconds=outline.lookup_seconds, restore_seconds=outline.restore_seconds,
            prefill_seconds=finished.prefill_seconds, decode_seconds=finished.decode_seconds,
            first_token_seconds=queued + outline.lookup_seconds + outline.restore_seconds + finished.prefill_seconds,
            prefill_tokens=finished.prefill_tokens, restored_bytes=outline.restored_bytes, decodes=finished.decodes,
            tokens_per_second=_rate(finished),
            seed=request.sampling.seed or 0, tier=outline.tier, miss_reason=outline.miss_reason, parks=outline.parks,
        ),
    )  # fmt: skip


def _kept(request: Request, outline: Outline) -> tuple[KeptPrefix, ...]:
    created = outline.kept or (0,) * len(request.keeps)
    pairs = zip(request.keeps, created, strict=True)
    return tuple(KeptPrefix(tokens=keep.position, created=count, seconds=keep.seconds) for keep, count in pairs)


def _report(options: RequestOptions) -> Report:
    return Report(options.special, options.logprobs, options.logprobs_after, options.prompt_logprobs)


def too_late(options: RequestOptions, called: float, now: float) -> Completion:
    """The result of a call whose deadline has passed before there was a request."""
    request = Request(
        id=0, tokens=[], max_new_tokens=0, sampling=Sampling(), stop_sequences=(), submitted_at=called,
        identity=Identity(b"", 0, b""), packed=b"", key=b"", report=_report(options),
    )  # fmt: skip
    outline = Outline(hit=CacheHit("cold", 0), miss_reason="cancelled before it was looked up")
    return make_completion(Complete(request, outline, None, None, None), now, "deadline")


def row_meta(save: SaveRow, build: str, now: float) -> RowMeta:
    """Everything about a row to be saved but its bytes. `now` is unix time in seconds."""
    captured, identity = save.captured, save.identity
    assert captured.payload is not None
    parent, key = prefix_keys(identity, save.tokens, (captured.start, captured.end))
    return RowMeta(
        key=key, parent=parent, start=captured.start, end=captured.end,
        tokens=save.tokens[TOKEN_BYTES * captured.start : TOKEN_BYTES * captured.end], fingerprint=identity.fingerprint,
        quant_bits=identity.quant_bits, ctx_params_hash=identity.ctx_params_hash, build=build,
        payload_bytes=len(captured.payload), logits_bytes=len(save.logits or b""), reason=captured.reason,
        created_at=now, prefill_seconds=captured.compute_seconds,
    )  # fmt: skip


def _rate(finished: Finished) -> float:
    """Tokens a second after the first; an end token counts, and so does each that a structure forced."""
    tokens = max(finished.decodes, len(finished.token_ids) - 1)
    return tokens / finished.decode_seconds if finished.decodes else 0.0
