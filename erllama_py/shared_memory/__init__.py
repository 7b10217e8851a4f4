"""Memory that this process shares with its children: KV bytes that cross without a copy.

`allocate` gives private memory until `share` was called for the first child. `arena` says where shared memory lies,
`segment` how others see it, `ledger` how processes keep to one budget. Nothing here has a name in the file system: what
no process has open or mapped any more is gone, whatever death they died.
"""

from __future__ import annotations

from erllama_py.shared_memory.arena import ARENA
from erllama_py.shared_memory.segment import Array

allocate = ARENA.allocate
share = ARENA.share

__all__ = ["ARENA", "Array", "allocate", "share"]
