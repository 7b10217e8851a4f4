"""What `erllama top` shows: two readings of a server's `/metrics`, as numbers by model and tier. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from erllama_py.serve.operations import series

Labels = frozenset[tuple[str, str]]


class Sample(msgspec.Struct, frozen=True):
    """The values of one page, by series and labels, and when it was read, in seconds of any clock."""

    at: float
    values: Mapping[str, Mapping[Labels, float]]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the values of a series that have these labels."""
        wanted = set(labels.items())
        return sum(value for found, value in self.values.get(name, {}).items() if wanted <= found)

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """These, added up by another label."""
        found: dict[str, float] = {}
        for known, value in self.values.get(name, {}).items():
            if set(labels.items()) <= known and (group := dict(known).get(label)) is not None:
                found[group] = found.get(group, 0.0) + value
        return found


class ModelNow(msgspec.Struct, frozen=True, kw_only=True):
    """One model. Rates are in tokens a second since the reading before, `None` at the first."""

    name: str
    phase: str
    generated_per_second: float | None
    computed_per_second: float | None
    active: int
    """Requests that have a sequence."""
    sequences: int
    waiting: int
    """Requests that have not begun, parked ones among them."""
    cells: int
    cells_in_use: int
    requests: int
    """Requests since it was loaded."""
    hits: dict[str, int]
    """Finished requests by what they began with; `cold`: nothing."""
    reused_share: float | None
    """Of the tokens of their prompts, those that were not computed; `None` without any."""
    restarts: int
    continued: int
    """How often a request went on after one."""


class TierNow(msgspec.Struct, frozen=True, kw_only=True):
    """One tier. Sizes are in bytes."""

    name: str
    kind: str
    rows: int
    used_bytes: int
    quota_bytes: int
    hits: int
    opened: float
    """How much of it is known."""
    writable: bool


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A server at one moment."""

    version: str
    open: int
    """Requests that are open."""
    open_limit: int
    draining: bool
    models: tuple[ModelNow, ...]
    tiers: tuple[TierNow, ...]
    misses: dict[str, int]
    """Requests that began cold, by why."""


def parse_sample(page: str, at: float) -> Sample:
    """A page of metrics. Raises `ValueError` for what is none."""
    values: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            values.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return Sample(at, values)


def view(now: Sample, before: Sample | None = None) -> View:
    """What two readings show. Counters that have gone down belong to a server that was started again: then there are no
    rates, as at the first reading."""
    if before is not None and (now.at <= before.at or _is_another(now, before)):
        before = None
    models = dict.fromkeys(now.by("model", series.PHASE.shown))
    tiers = now.by("tier", series.TIER_ROWS.shown)
    return View(
        version=next(iter(now.by("version", series.INFO.shown)), ""),
        open=int(sum(n for route, n in now.by("route", series.IN_PROGRESS.shown).items() if route != "/metrics")),
        open_limit=int(now.total(series.OPEN_LIMIT.shown)),
        draining=bool(now.total(series.DRAINING.shown)),
        models=tuple(_model(name, now, before) for name in models),
        tiers=tuple(_tier(name, now) for name in tiers),
        misses=_counts(now.by("reason", series.CACHE["misses"].shown)),
    )  # fmt: skip


def _model(name: str, now: Sample, before: Sample | None) -> ModelNow:
    def count(field: str) -> int:
        return int(now.total(series.MODEL[field].shown, model=name))

    prompts = count("prompt_tokens")
    return ModelNow(
        name=name, phase=next(iter(_present(now.by("phase", series.PHASE.shown, model=name))), "unknown"),
        generated_per_second=_rate("generated_tokens", name, now, before),
        computed_per_second=_rate("computed_tokens", name, now, before),
        active=count("active"), sequences=count("sequences"),
        waiting=count("waiting") + count("parked"), cells=count("cells"),
        cells_in_use=count("cells_in_use"), requests=count("requests"),
        hits=_counts(now.by("kind", series.MODEL["hits"].shown, model=name)),
        reused_share=count("reused_tokens") / prompts if prompts else None, restarts=count("restarts"),
        continued=count("continued"),
    )  # fmt: skip


def _tier(name: str, now: Sample) -> TierNow:
    def value(one: series.Series) -> float:
        return now.total(one.shown, tier=name)

    return TierNow(
        name=name,
        kind=next(iter(now.by("kind", series.TIER_ROWS.shown, tier=name)), ""),
        rows=int(value(series.TIER_ROWS)),
        used_bytes=int(value(series.TIER_USED)),
        quota_bytes=int(value(series.TIER_QUOTA)),
        hits=int(now.total(series.CACHE["hits.tier"].shown, tier=name)),
        opened=value(series.TIER_OPENED),
        writable=bool(value(series.TIER_WRITABLE)),
    )


def _rate(field: str, model: str, now: Sample, before: Sample | None) -> float | None:
    if before is None:
        return None
    name = series.MODEL[field].shown
    grown = now.total(name, model=model) - before.total(name, model=model)
    return max(0.0, grown) / (now.at - before.at)


def _is_another(now: Sample, before: Sample) -> bool:
    """Whether a counter of requests has gone down, or a model was loaded again since."""
    counters = (series.REQUESTS.shown, series.MODEL["generated_tokens"].shown)
    return any(now.total(name) < before.total(name) for name in counters)


def _present(values: Mapping[str, float]) -> Iterable[str]:
    return (name for name, value in values.items() if value)


def _counts(values: Mapping[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in values.items() if value}
