"""What a tier reports of a row, as far as it can be believed. Pure.

A header has a checksum, and is believed; its usage was written by whatever clock there was, by another machine, or by
nobody who counted. A last use that is still to come would keep a row from ever being evicted, and so would hits without
end.
"""

from __future__ import annotations

from msgspec.structs import replace

from erllama_py.tiers.messages import StoredRow

# No row is hit more often, be it a thousand times a second for 30 years: a larger number was not counted.
MOST_HITS = 1 << 40
# Seconds by which a last use may lie ahead without being counted: clocks of two machines differ by some.
AHEAD = 60.0


def sane(row: StoredRow, now: float, drift: float) -> tuple[StoredRow, tuple[str, ...]]:
    """The row with a last use by a clock that shows `now`, `drift` seconds behind the one that the row has it by; and
    what was healed: `"hits"` that nobody counted are 0, `"times"` that are still to come are now."""
    healed = []
    used_at, hits = row.used_at - drift, row.hits
    if not used_at <= now:  # no number is not before now either
        if not used_at <= now + AHEAD:
            healed.append("times")
        used_at = now
    if not 0 <= hits <= MOST_HITS:
        hits = 0
        healed.append("hits")
    same = (used_at, hits) == (row.used_at, row.hits)
    return row if same else replace(row, used_at=used_at, hits=hits), tuple(healed)
