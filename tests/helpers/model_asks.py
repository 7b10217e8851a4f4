"""What the callers of a machine's world want of it: models of any shape, and requests that begin alike.

A request is an `Ask` until it is made: what it begins with may be what an earlier one was answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from erllama_py.cache.keys import Identity, pack_tokens, prefix_keys
from erllama_py.chat.segments import Markers, SegmentKind
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import CapturePlan, Report
from erllama_py.options.sampling import Sampling
from erllama_py.scheduler.messages import Request

STEM = list(range(100, 400))
BASES = (STEM, STEM[:40] + list(range(1100, 1400)), list(range(2000, 2300)))
IDENTITIES = (Identity(b"f" * 32, 4, b"c" * 32), Identity(b"g" * 32, 4, b"c" * 32))  # two tenants
SESSIONS = ("s", "t")
SCORED = 5000  # the first token of those that are scored, and so on


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What the model has to share."""

    memory: MemoryKind
    n_ctx: int
    n_seq_max: int
    quantum: int
    kept: int
    saves: bool
    max_pending: int
    turn: float  # seconds; a decode takes one


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request: the beginning of a base, or what an earlier one had and its reply, and then its own tokens.

    Where it is `scored`, that many tokens follow which are not to last, and it draws nothing.
    """

    base: int
    length: int
    own: int
    after: int | None
    max_new_tokens: int
    priority: int
    session: str | None
    wait: bool
    tenant: int
    stream: bool
    plan: bool
    queue_wait: float = 0.0
    scored: int = 0
    thinks: SegmentKind | None = None  # what its reply begins in, where thinking is told apart


def request_for(shape: Shape, ask: Ask, request_id: int, texts: Sequence[list[int]], now: float) -> Request:
    """The request that is asked for, of a model that has answered `texts` so far."""
    begin = BASES[ask.base][: ask.length]
    if ask.after is not None and texts:
        begin = texts[-1 - ask.after % len(texts)]
    tokens = [*begin, *[3000 + ask.own] * ask.own][: shape.n_ctx - 1] or [1]
    identity, packed, plan = IDENTITIES[ask.tenant], pack_tokens(tokens), None
    if ask.plan and shape.saves:
        ends = range(16, len(tokens) - 3, 16)
        last = () if shape.memory == "full" else (len(tokens),)
        apart = 16 if shape.memory == "recurrent" else 0
        plan = CapturePlan(captured_to=0, prompt_ends=(*ends, *last), interval=20, min_tokens=8, apart=apart)
    request = Request(
        id=request_id, tokens=tokens, max_new_tokens=min(ask.max_new_tokens, shape.n_ctx - len(tokens)),
        sampling=Sampling(), stop_sequences=(), submitted_at=now, identity=identity, packed=packed,
        key=prefix_keys(identity, packed, (len(tokens),))[0], plan=plan, priority=ask.priority,
        session_id=ask.session, session_wait=ask.wait, queue_wait=ask.queue_wait,
        markers=None if ask.thinks is None else Markers(thinking=("<t>", "</t>"), begins=ask.thinks),
    )  # fmt: skip
    return with_scored(request, shape.n_ctx, ask.scored) if ask.scored else request


def with_scored(request: Request, n_ctx: int, count: int) -> Request:
    """The request with tokens at its end that are scored, as a continuation is."""
    tokens = request.tokens[: n_ctx - 1 - count]
    lasting = len(tokens)
    tokens = [*tokens, *range(SCORED, SCORED + count)]
    packed, plan = pack_tokens(tokens), request.plan
    if plan is not None:
        ends = tuple(end for end in plan.prompt_ends if end <= lasting)
        plan = msgspec.structs.replace(plan, prompt_ends=ends, prompt_only=True)
    return msgspec.structs.replace(
        request, tokens=tokens, packed=packed, key=prefix_keys(request.identity, packed, (len(tokens),))[0], plan=plan,
        report=Report(prompt_logprobs=0, scored_from=lasting + 1, next_tokens=(1,)), max_new_tokens=0, session_id=None,
        lasting=lasting,
    )  # fmt: skip
