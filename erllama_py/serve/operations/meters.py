"""What is measured of requests: numbers in plain dictionaries, since some of them change at every token.

One event loop writes and reads. Labels are of few values: APIs, routes and statuses are those of the code, models
those that have been loaded, up to a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import erllama_py as erllama
from erllama_py.serve.operations.histogram import Histogram

# Bounds in seconds. Gaps: a small model on a fast machine has 2 ms between tokens, a large one on a slow one a second.
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MOST_MODELS = 256
OTHERS = "other"
"""The label of models beyond that many."""


class ByLabel:
    """Histograms by one label, which has at most `most` values: what comes later is counted together."""

    def __init__(self, bounds: Sequence[float], most: int = MOST_MODELS) -> None:
        self._bounds, self._most = bounds, most
        self.known: dict[str, Histogram] = {}

    def observe(self, label: str, value: float) -> None:
        """One more observation."""
        try:
            self.known[label].observe(value)
        except KeyError:
            name = label if len(self.known) < self._most else OTHERS
            self.known.setdefault(name, Histogram(self._bounds)).observe(value)


class RequestMeters:
    """The `Meters` of an application, with all that they have counted."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """By API, route and status."""
        self.open: Counter[tuple[str, str]] = Counter()
        """By API and route."""
        self.durations: dict[tuple[str, str], Histogram] = {}
        """By API and route."""
        self.firsts = ByLabel(FIRST)
        self.gaps = ByLabel(GAPS)
        self.replies: Counter[tuple[str, str, str]] = Counter()
        """By API, model and finish reason."""
        self.tokens: Counter[tuple[str, str, str]] = Counter()
        """By API, model and kind: `"prompt"`, `"cached"`, `"generated"`."""
        self._models: set[str] = set()

    def began(self, api: str, route: str) -> None:
        """See `Meters`."""
        self.open[api, route] += 1

    def first(self, model: str, seconds: float) -> None:
        """See `Meters`."""
        self.firsts.observe(model, seconds)

    def gap(self, model: str, seconds: float) -> None:
        """See `Meters`."""
        self.gaps.observe(model, seconds)

    def replied(self, api: str, model: str, completion: erllama.Completion) -> None:
        """See `Meters`; the counts of all alternatives."""
        model = self._label(model)
        one_by_one = completion.alternatives or (completion,)
        for one in one_by_one:
            self.replies[api, model, one.finish_reason] += 1
        self.tokens[api, model, "prompt"] += completion.prompt_tokens
        self.tokens[api, model, "cached"] += completion.cache_delta.read
        self.tokens[api, model, "generated"] += sum(len(one.generated) for one in one_by_one)

    def ended(self, api: str, route: str, status: int, seconds: float) -> None:
        """See `Meters`."""
        self.open[api, route] -= 1
        self.requests[api, route, str(status)] += 1
        histogram = self.durations.get((api, route))
        if histogram is None:
            histogram = self.durations[api, route] = Histogram(DURATIONS)
        histogram.observe(seconds)

    def _label(self, model: str) -> str:
        if model in self._models or len(self._models) < MOST_MODELS:
            self._models.add(model)
            return model
        return OTHERS
