"""Requests let in by their keys, within what each key may use. Budgets are kept in memory: a restart fills them."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import HTTPConnection

import erllama_py as erllama
from erllama_py.serve.access.buckets import Bucket, Rate, filled, full, taken, wait
from erllama_py.serve.access.hosts import is_loopback, is_passed_on
from erllama_py.serve.access.keys import check_keys, find_key, presented_keys, salt_of
from erllama_py.serve.access.settings import AccessOpts, KeyOpts
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import Tenant

MINUTE, DAY = 60.0, 86_400.0


class Budget:
    """What one tenant may use: buckets of requests and of tokens."""

    def __init__(self, entry: KeyOpts, now: float) -> None:
        tokens = ((entry.tokens_per_minute, MINUTE), (entry.tokens_per_day, DAY))
        self._requests = _buckets([(entry.requests_per_minute, MINUTE)], now)
        self._tokens = _buckets(list(tokens), now)

    def admit(self, now: float) -> None:
        """Take one request, where there is one left, and a token at least. Raises `Problem`."""
        waits = {
            "requests": max((wait(bucket, rate, now) for rate, bucket in self._requests.items()), default=0),
            "tokens": max((wait(bucket, rate, now) for rate, bucket in self._tokens.items()), default=0),
        }
        what, seconds = max(waits.items(), key=lambda item: item[1])
        if seconds:
            message = f"the budget of this key has no {what} left; try again in {seconds} s"
            raise Problem("rate_limited", message, code=f"{what}_limit", retry_after=seconds)
        _take(self._requests, now, 1)

    def spent(self, tokens: int, now: float) -> None:
        """Take tokens, be they there or not."""
        _take(self._tokens, now, tokens)

    def left(self, now: float) -> list[float]:
        """What is in its buckets."""
        return [filled(bucket, rate, now).level for rate, bucket in (*self._requests.items(), *self._tokens.items())]


def _buckets(rates: list[tuple[int | None, float]], now: float) -> dict[Rate, Bucket]:
    known = [Rate(float(amount), seconds) for amount, seconds in rates if amount is not None]
    return {rate: full(rate, now) for rate in known}


def _take(buckets: dict[Rate, Bucket], now: float, amount: float) -> None:
    for rate, bucket in buckets.items():
        buckets[rate] = taken(bucket, rate, now, amount)


class KeyAccess:
    """See `Access`. Without keys everybody who gets this far is the one tenant. `clock` gives seconds."""

    def __init__(self, options: AccessOpts, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known = dict[str, tuple[tuple[int | None, ...], Budget]]()
        self.change(options)

    def change(self, options: AccessOpts) -> None:
        """Let in others from now on. Whose bounds are as they were has what is left of its budget. Raises
        `InvalidOption`."""
        if (problem := check_keys(options.keys)) is not None:
            raise erllama.InvalidOption(*problem)
        self._keys = options.keys
        self._tenants = {entry.hash: _tenant(entry, options.secret) for entry in options.keys}
        before, self._known = self._known, {}
        for entry in options.keys:
            bounds = (entry.requests_per_minute, entry.tokens_per_minute, entry.tokens_per_day)
            known = before.get(entry.name)
            kept = known[1] if known is not None and known[0] == bounds else Budget(entry, self._clock())
            self._known[entry.name] = (bounds, kept)
        self._budgets = {name: budget for name, (_, budget) in self._known.items()}

    def admit(self, connection: HTTPConnection) -> Tenant:
        """The tenant of the key that a request presents. Raises `Problem`: 401 or, beyond its budget, 429."""
        tenant = self.known(connection)
        if self._keys:
            self._budgets[tenant.name].admit(self._clock())
        return tenant

    def known(self, connection: HTTPConnection) -> Tenant:
        """See `Knows`."""
        if not self._keys:  # others come in only where the server is insecure, and are no operators of it
            client, elsewhere = connection.client, is_passed_on(connection.headers)
            return Tenant(operator=not elsewhere and (client is None or is_loopback(client.host)))
        for presented in presented_keys(connection.headers):
            if (entry := find_key(presented, self._keys)) is not None:
                return self._tenants[entry.hash]
        said = "authorization" in connection.headers or "x-api-key" in connection.headers
        what = "this API key is not known here" if said else "an API key is needed"
        message = f"{what}: send it as 'Authorization: Bearer …' or as 'x-api-key'"
        raise Problem("unauthenticated", message, code="invalid_api_key")

    def readmit(self, tenant: Tenant) -> Tenant:
        """See `Readmits`. Keys may have come and gone: those of its name are the same tenant. Raises `Problem`."""
        if not self._keys:
            return tenant
        known = [self._tenants[entry.hash] for entry in self._keys if entry.name == tenant.name]
        if not known:
            message = "the API key that asked for this is not known here any more"
            raise Problem("unauthenticated", message, code="invalid_api_key")
        self._budgets[tenant.name].admit(self._clock())
        return next((one for one in known if one.salt == tenant.salt), known[0])

    def spent(self, tenant: Tenant, tokens: int) -> None:
        """Charge what was computed and generated to the tenant's budget."""
        if (budget := self._budgets.get(tenant.name)) is not None:
            budget.spent(tokens, self._clock())


def _tenant(entry: KeyOpts, secret: str | None) -> Tenant:
    models = None if entry.models is None else frozenset(entry.models)
    return Tenant(
        name=entry.name, salt=salt_of(entry, secret), priority=entry.priority, models=models, operator=entry.operator
    )  # fmt: skip
