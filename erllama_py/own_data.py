"""How much private data this process has mapped, and whether it may map more: Linux, getrlimit(2), RLIMIT_DATA."""

from __future__ import annotations

import sys

if sys.platform == "linux":
    import resource

_USUAL_STACK = 8 << 20
_UNBOUNDED_STACK = 2 << 20  # of glibc, where a stack may have any size


def own_bytes() -> int:
    """What this process has of it, with its stack; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def lacks(nbytes: int) -> bool:
    """Whether it may not have so many bytes more, where it is bounded."""
    if sys.platform != "linux":
        return False
    most = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return most != resource.RLIM_INFINITY and own_bytes() + nbytes > most


def stack_bytes() -> int:
    """What a thread takes of it."""
    if sys.platform != "linux":
        return _USUAL_STACK
    given = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _UNBOUNDED_STACK if given == resource.RLIM_INFINITY else given
