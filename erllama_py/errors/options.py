"""Errors about options, and what an option names that is not there."""

from __future__ import annotations

from erllama_py.errors.base import ErllamaError


class InvalidOption(ErllamaError):
    """An option is unknown, of the wrong type, or has a value that cannot work.

    `option` is the path of the option (`"context_opts.n_ctx"`), `nearest` the closest known name where the
    name itself was not known.
    """

    option: str
    problem: str
    nearest: str | None = None

    def describe(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"option {self.option!r}: {self.problem}{hint}"


class TierNotFound(ErllamaError):
    """`tier_srv` names no tier that is running, or `tier` a `kind` of which none is."""

    tier_srv: str
    running: tuple[str, ...]
    kind: str | None = None

    def describe(self) -> str:
        running = f"running: {', '.join(self.running) or 'none'}"
        if self.kind is None:
            made = f'Runtime(tiers={{"{self.tier_srv}": DiskTier("/a/directory")}}) starts one'
            return f"no tier is running under the name {self.tier_srv!r}: {made}; {running}"
        made = f'Runtime(tiers={{"{self.kind}": {{"kind": "{self.kind}", "root": "/a/directory"}}}}) starts one'
        return f"no tier of the kind {self.kind!r} is running: {made}; {running}"


class TierMismatch(ErllamaError):
    """`tier` is not the kind of the tier that `tier_srv` names."""

    tier_srv: str
    asked: str
    running: str

    text = "tier_srv names {tier_srv!r}, a tier of the kind {running!r}, but tier is {asked!r}"
