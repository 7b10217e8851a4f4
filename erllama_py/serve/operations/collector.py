"""One page of metrics out of what was read: series that `series` lists, for prometheus-client to write down.

Every series is on every page, those that have not happened yet too, as names with a help and without a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import erllama_py as erllama
from erllama_py.serve.core.lasting_streams import LastingStreams
from erllama_py.serve.core.served import ServedState
from erllama_py.serve.core.service import BatchCounts
from erllama_py.serve.operations import series
from erllama_py.serve.operations.cache_names import labelled
from erllama_py.serve.operations.histogram import Histogram
from erllama_py.serve.operations.meters import RequestMeters
from erllama_py.serve.operations.series import Series

Values = Iterable[tuple[tuple[str, ...], float]]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at one moment. `None`: it does not answer now, or there is none."""

    meters: RequestMeters
    open_limit: int
    draining: bool
    batches: BatchCounts
    lasting: LastingStreams
    served: ServedState = ServedState(models=())
    models: tuple[tuple[erllama.ModelInfo, erllama.ModelCounters], ...] = ()
    cache: Mapping[str, float] | None = None
    tiers: tuple[erllama.TierInfo, ...] = ()
    pressure: erllama.PressureState | None = None
    tree: erllama.TreeNode | None = None


def families(reading: Reading) -> Iterator[Metric]:
    """All of `series.ALL`, with their values."""
    yield _family(series.INFO, [((erllama.__version__,), 1)])
    yield from _requests(reading)
    yield from _served(reading.served)
    yield from _models(reading.models)
    yield from _cache(reading)
    yield from _rest(reading)


def _requests(reading: Reading) -> Iterator[Metric]:
    meters = reading.meters
    yield _family(series.REQUESTS, meters.requests.items())
    yield _family(series.IN_PROGRESS, meters.open.items())
    yield _histogram(series.DURATION, meters.durations.items())
    yield _family(series.OPEN_LIMIT, [((), reading.open_limit)])
    yield _family(series.DRAINING, [((), reading.draining)])
    yield _histogram(series.FIRST, (((model,), found) for model, found in meters.firsts.known.items()))
    yield _histogram(series.GAP, (((model,), found) for model, found in meters.gaps.known.items()))
    yield _family(series.REPLIES, meters.replies.items())
    for one, kind in ((series.PROMPT, "prompt"), (series.CACHED, "cached"), (series.GENERATED, "generated")):
        yield _family(one, (((api, name), n) for (api, name, what), n in meters.tokens.items() if what == kind))
    lines = {("completed",): reading.batches.completed, ("failed",): reading.batches.failed}
    yield _family(series.BATCHES, [((), reading.batches.open)])
    yield _family(series.BATCH_LINES, lines.items())
    lasting = reading.lasting
    yield _family(series.LASTING, [((), len(lasting))])
    yield _family(series.LASTING_BYTES, [((), lasting.nbytes)])
    for one, counted in ((series.RESUMED, lasting.resumed), (series.EXPIRED, lasting.expired)):
        yield _family(one, (((api,), n) for api, n in counted.items()))


def _served(state: ServedState) -> Iterator[Metric]:
    models = state.models
    yield _family(series.SERVED, (((one.name, one.state), 1) for one in models))
    yield _family(series.SERVED_BYTES, (((one.name,), one.memory_bytes) for one in models))
    yield _family(series.SERVED_OPEN, (((one.name,), one.open) for one in models))
    yield _family(series.SERVED_WAITING, (((one.name,), one.waiting) for one in models))
    loads = [((one.name, "loaded"), one.loads) for one in models]
    loads += [((one.name, "failed"), one.failed_loads) for one in models]
    yield _family(series.SERVED_LOADS, loads)
    yield _family(series.SERVED_UNLOADS, (((one.name, why), n) for one in models for why, n in one.unloads.items()))
    yield _family(series.BUDGET, _once(state.budget_bytes))
    yield _family(series.BUDGET_RESERVED, _once(state.reserved_bytes if state.budget_bytes is not None else None))
    yield _family(series.BUDGET_USED, [((), state.used_bytes)])


def _models(models: tuple[tuple[erllama.ModelInfo, erllama.ModelCounters], ...]) -> Iterator[Metric]:
    yield _family(series.MODELS, [((), len(models))])
    yield _family(series.PHASE, (((info.id, info.phase), 1) for info, _ in models))
    yield _family(series.WEIGHTS, (((info.id,), info.size) for info, _ in models))
    yield _family(series.MEMORY, (((info.id,), info.memory_estimate) for info, _ in models))
    for field, one in series.MODEL.items():
        yield _family(one, (pair for info, counters in models for pair in _of_model(info.id, getattr(counters, field))))


def _of_model(model: str, value: float | Mapping[str, float]) -> Values:
    if isinstance(value, Mapping):
        return (((model, str(kind)), count) for kind, count in value.items())
    return [((model,), value)]


def _cache(reading: Reading) -> Iterator[Metric]:
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {kind: [] for kind in series.CACHE}
    for name, count in (reading.cache or {}).items():
        kind, label = labelled(name)
        if name in found:
            found[name].append(((), count))
        elif kind in found:
            found[kind].append(((label,), count))
    yield _family(series.CACHE_UP, [((), reading.cache is not None)])
    for kind, values in found.items():
        yield _family(series.CACHE[kind], values)
    tiers = [((tier.name, tier.kind), tier) for tier in reading.tiers]
    yield _family(series.TIER_QUOTA, ((at, tier.quota_bytes) for at, tier in tiers))
    yield _family(series.TIER_USED, ((at, tier.used_bytes) for at, tier in tiers))
    yield _family(series.TIER_ROWS, ((at, tier.rows) for at, tier in tiers))
    yield _family(series.TIER_OPENED, ((at, tier.opened) for at, tier in tiers))
    yield _family(series.TIER_WRITABLE, ((at, tier.problem is None) for at, tier in tiers))


def _rest(reading: Reading) -> Iterator[Metric]:
    nodes = list(_below(reading.tree)) if reading.tree is not None else []
    yield _family(series.RESTARTS, ((at, node.restarts) for at, node in nodes))
    yield _family(series.UP, ((at, node.state == "running") for at, node in nodes))
    state = reading.pressure or erllama.PressureState(source="")
    yield _family(series.PRESSURE_USED, _once(state.used))
    yield _family(series.PRESSURE_TOTAL, _once(state.total))
    yield _family(series.PRESSURE_EVICTIONS, _once(state.evictions))
    yield _family(series.PRESSURE_BYTES, _once(state.evicted_bytes))


def _below(node: erllama.TreeNode, above: str = "") -> Iterator[tuple[tuple[str, str], erllama.TreeNode]]:
    yield (above, node.name), node
    for child in node.children:
        yield from _below(child, node.name)


def _once(value: float | None) -> Values:
    return [] if value is None else [((), value)]


def _family(one: Series, values: Values) -> Metric:
    make = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
    family = make(one.name, one.help, labels=one.labels)
    for labels, value in values:
        family.add_metric(labels, float(value))
    return family


def _histogram(one: Series, values: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    family = HistogramMetricFamily(one.name, one.help, labels=one.labels)
    for labels, histogram in values:
        family.add_metric(labels, histogram.buckets(), histogram.total)
    return family
