"""What the callers of a machine's world want of it: models of any shape, and requests that begin alike.

A request is an `Ask` until it is made: what it begins with may be what an earlier one was answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from erllama_py.cache.keys import Identity, pack_tokens, prefix_keys
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import CapturePlan
from erllama_py.options.sampling import Sampling
from erllama_py.scheduler.messages import Request

STEM = list(range(100, 400))
BASES = (STEM, STEM[:40] + list(range(1100, 1400)), list(range(2000, 2300)))
IDENTITIES = (Identity(b"f" * 32, 4, b"c" * 32), Identity(b"g" * 32, 4, b"c" * 32))  # two tenants
SESSIONS = ("s", "t")


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
    """A request: the beginning of a base, or what an earlier one had and its reply, and then its own tokens."""

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
        plan = CapturePlan(captured_to=0, prompt_ends=(*ends, *last), interval=20, min_tokens=8)
    return Request(
        id=request_id, tokens=tokens, max_new_tokens=min(ask.max_new_tokens, shape.n_ctx - len(tokens)),
        sampling=Sampling(), stop_sequences=(), submitted_at=now, identity=identity, packed=packed,
        key=prefix_keys(identity, packed, (len(tokens),))[0], plan=plan, priority=ask.priority,
        session_id=ask.session, session_wait=ask.wait, queue_wait=ask.queue_wait,
    )  # fmt: skip
