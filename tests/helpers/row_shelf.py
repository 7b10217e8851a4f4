"""Saved rows in memory, found as the cache finds them: a real index without tiers, files or threads."""

from __future__ import annotations

from erllama_py.cache.index import Index
from erllama_py.cache.messages import Hit, Located, RowBytes, SaveLost
from erllama_py.cache.replaced import replaced
from erllama_py.cache.walk import walk
from erllama_py.model.request import row_meta
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.messages import Request, SaveRow
from erllama_py.tiers.messages import StoredRow

TIER = "disk"


class RowShelf:
    """Owns the rows; nothing is evicted but by `lose_half`."""

    def __init__(self) -> None:
        self._index = Index()
        self._index.add_tier(TIER, "disk", 1 << 40)
        self._rows: dict[bytes, RowBytes] = {}
        self.whole = True  # nothing that was stored has gone

    def put(self, save: SaveRow, *, lose: bool = False) -> SaveLost | None:
        """Store a range that was copied out, if it was; what is reported of it, if the row that it extends is not
        there."""
        captured = save.captured
        if captured.payload is None:
            return None
        meta = row_meta(save, "b1", 0.0)
        if meta.key not in self._rows:
            if lose or not self._index.books[TIER].has_parent(meta):
                return SaveLost(captured.request_id, meta.key, meta.start, meta.end)
            self._rows[meta.key] = RowBytes(meta, captured.payload, save.logits or b"")
            self._index.add(TIER, StoredRow(meta=meta, nbytes=meta.payload_bytes, hits=0, used_at=0.0))
            for key in replaced(self._index, TIER, meta).keys if save.replaces else ():
                self._index.drop(TIER, key)
                del self._rows[key]
        return None

    def find(self, request: Request, *, cuttable: bool) -> Hit:
        """What there is for a prompt."""
        return walk(self._index, request.identity, request.packed, cuttable=cuttable, tier=TIER)

    def covers(self, slot: Slot) -> bool:
        """Whether there is everything that a sequence held."""
        assert slot.identity is not None
        return walk(self._index, slot.identity, slot.packed, cuttable=True, tier=TIER).exact

    def read(self, row: Located) -> RowBytes | None:
        """A row that was found, if it is still there."""
        return self._rows.get(row.meta.key)

    def lose_half(self, first: int) -> None:
        """Every second row goes, those that are about to be read too."""
        self.whole = False
        for key in list(self._rows)[first % 2 :: 2]:
            self._index.drop(TIER, key)
            del self._rows[key]
