"""The names of the cache's counters, taken apart: `hits.tier.disk` is a `hits.tier` of `disk`. Pure."""

from __future__ import annotations

# The longest first: what a name begins with, up to the dot before its label.
KINDS = (
    "saves.dropped", "saves.bytes", "hits.tier", "evicted_bytes", "restored", "replaced", "evicted", "seconds",
    "misses", "healed", "saves", "turns", "keeps", "hits", "bad",
)  # fmt: skip


def labelled(name: str) -> tuple[str, str]:
    """What a counter counts, and of which kind, tier or reason; the last is empty for names that are not known."""
    for kind in KINDS:
        if name.startswith(f"{kind}."):
            return kind, name[len(kind) + 1 :]
    return name, ""
