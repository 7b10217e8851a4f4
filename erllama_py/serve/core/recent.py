"""Why the last prompts were not reused whole: a few facts of each, and no word of any. For operators."""

from __future__ import annotations

from collections import deque

import msgspec

import erllama_py as erllama

MOST = 20  # what is read at a glance


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """One request that had to compute more of its prompt than its last token. Counts are in tokens."""

    at: float
    """When its reply was complete, in unix seconds."""
    api: str
    model: str
    why: str
    """See `Stats.miss_reason`."""
    hit: str
    """What it began with all the same; `"cold"`: nothing."""
    tier: str | None
    """Where that came from; `None` for live cells and for nothing."""
    prompt_tokens: int
    cached_tokens: int
    first_token_seconds: float


class Recent:
    """The last of them."""

    def __init__(self) -> None:
        self._missed: deque[Missed] = deque(maxlen=MOST)

    def replied(self, api: str, model: str, completion: erllama.Completion, at: float) -> None:
        """A reply is complete, at this unix time."""
        stats = completion.stats
        if stats.miss_reason is not None:
            self._missed.append(Missed(
                at=at, api=api, model=model, why=stats.miss_reason, hit=completion.cache_hit_kind, tier=stats.tier,
                prompt_tokens=completion.prompt_tokens, cached_tokens=completion.cache_delta.read,
                first_token_seconds=stats.first_token_seconds,
            ))  # fmt: skip

    def missed(self) -> list[Missed]:
        """The newest first."""
        return list(reversed(self._missed))
