"""Places of which there are so many, for requests and connections: shared by tenants, so that none has them all.

A tenant with a name gets another place while it has fewer than three for each one that is free. So one alone comes to
three quarters of all, and there is room for whoever comes then, who has a share of the rest by the same rule. Nobody
is told to leave, and no bound is to be set. Where there are no keys everybody is the same tenant, and gets all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from erllama_py.serve.core.problems import RETRY_SECONDS, Problem

OF_EACH_FREE = 3


def may_take(mine: int, free: int, *, shared: bool) -> bool:
    """Whether a tenant that has `mine` may have one of those that are `free`. Pure."""
    return mine < OF_EACH_FREE * free if shared else free > 0


class Places:
    """So many, and who has how many of them. `things` are what they are for, in the words of a refusal, and in the code
    `too_many_…`."""

    def __init__(self, most: int, things: str, code: str) -> None:
        self.most = most
        self._things, self._code = things, code
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._of.total()

    @contextmanager
    def taken(self, tenant: str) -> Iterator[None]:
        """While a tenant, by its name, has one. Raises `Problem` where there is none for it."""
        self.check(tenant)
        self._of[tenant] += 1
        try:
            yield
        finally:
            self._of[tenant] -= 1
            if not self._of[tenant]:
                del self._of[tenant]

    def check(self, tenant: str) -> None:
        """Raises `Problem` where there is none for it."""
        mine, free = self._of[tenant], self.most - len(self)
        if may_take(mine, free, shared=bool(tenant)):
            return
        message = f"{len(self)} {self._things} are open, as many as this server accepts"
        if free > 0:
            message = f"{mine} {self._things} of this key are open, as many as it may have beside those of others"
        raise Problem("overloaded", message, code=self._code, retry_after=RETRY_SECONDS)
