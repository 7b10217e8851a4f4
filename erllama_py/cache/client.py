"""How a model's actor talks to the cache and reads from tiers. Nothing here raises for a cache that is down: a
look-up finds nothing then, a row cannot be read, a save is dropped. Whatever goes wrong while a row is read is a row
that cannot be read."""

from __future__ import annotations

from contextlib import suppress

from erllama_py.actors import ActorError, CallTimeout, Names
from erllama_py.cache.messages import (
    CacheMessage,
    Explain,
    Find,
    FindTurn,
    HasLostTurn,
    Hit,
    Located,
    RowBytes,
    RowMeta,
    Turn,
)
from erllama_py.errors import TierError
from erllama_py.tiers.messages import CACHE, Flush, Get, tier_actor_name
from erllama_py.watch.log import get_logger


class CacheClient:
    """The cache, by its name: it may crash and come back between two calls."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def find(self, message: Find | Explain) -> Hit | None:
        """What the cache has for a prompt; None when it cannot answer."""
        try:
            hit: Hit = await self._names.call(CACHE, message)
        except ActorError:
            return None
        return hit

    async def find_turn(self, message: FindTurn) -> Turn | None:
        """A turn that the cache has; None also when it cannot answer."""
        try:
            turn: Turn | None = await self._names.call(CACHE, message)
        except ActorError:
            return None
        return turn

    async def has_lost_turn(self, found_by: tuple[bytes, ...]) -> bool:
        """Whether the cache had a turn that one of these found."""
        try:
            return bool(await self._names.call(CACHE, HasLostTurn(found_by)))
        except ActorError:
            return False

    async def read(self, row: Located, seconds: float) -> RowBytes | None:
        """The bytes of a row, checked; None when they cannot be had, or not within so many seconds."""
        try:
            content: RowBytes = await self._names.call(tier_actor_name(row.tier), Get(row.meta.key), seconds)
        except CallTimeout:
            get_logger().warning("a row did not come in time", tier=row.tier, key=row.meta.key.hex(), seconds=seconds)
            return None
        except (ActorError, TierError):
            return None
        except Exception as error:  # of a kind that no tier should raise: the request goes on without the row
            problem = f"{type(error).__name__}: {error}"
            get_logger().warning("a row cannot be read", tier=row.tier, key=row.meta.key.hex(), problem=problem)
            return None
        return content if _place(content.meta) == _place(row.meta) else None

    def tell(self, message: CacheMessage) -> bool:
        """Cast to the cache; false when it is down."""
        with suppress(ActorError):
            self._names.cast(CACHE, message, bounded=False)
            return True
        return False

    async def flush(self) -> None:
        """Return when everything that was handed to the cache before is stored or given up, or a tier is stuck."""
        with suppress(ActorError, TierError):
            await self._names.call(CACHE, Flush())


def _place(meta: RowMeta) -> tuple[bytes, int, int]:
    """A row that was saved again since it was found may have another start."""
    return meta.key, meta.start, meta.end
