"""What a panel of the dashboard is, and the queries that panels are made of; `dashboard_rows` has the panels."""

from __future__ import annotations

from typing import Literal, NamedTuple

HERE = 'instance=~"$instance"'
MODEL = f'{HERE}, model=~"$model"'
EVERY = "$__rate_interval"

Kind = Literal["stat", "timeseries", "table", "heatmap"]


class Query(NamedTuple):
    """One query, and how its lines are called."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """One panel. `thresholds` are values from which on it has another colour; units are Grafana's."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str
    kind: Kind = "timeseries"
    thresholds: tuple[tuple[float, str], ...] = ()
    stacked: bool = False
    width: int = 8
    least: float | None = 0
    most: float | None = None
    nothing: str | None = None  # what is shown where there is no sample


class Row(NamedTuple):
    """Panels with a title above them."""

    title: str
    panels: tuple[Panel, ...]


def rate(series: str, by: str, where: str = MODEL) -> str:
    """What a counter grows by in a second, by these labels."""
    return f"sum by ({by}) (rate({series}{{{where}}}[{EVERY}]))"


def gauge(series: str, by: str, where: str = MODEL) -> str:
    """The sum of a gauge, by these labels."""
    return f"sum by ({by}) ({series}{{{where}}})"


def quantiles(series: str, by: str = "", where: str = MODEL) -> tuple[Query, ...]:
    """Three quantiles of a histogram of seconds."""
    labels, end = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    inner = f"sum by ({labels}) (rate({series}_bucket{{{where}}}[{EVERY}]))"
    return tuple(Query(f"histogram_quantile({q}, {inner})", f"p{q * 100:.0f}{end}") for q in (0.5, 0.95, 0.99))


def ratio(part: str, whole: str) -> str:
    """A share; nothing where there is no whole."""
    return f"{part} / ({whole} > 0)"


def stat(
    title: str, unit: str, expr: str, description: str, *thresholds: tuple[float, str], nothing: str | None = None
) -> Panel:
    """One number."""
    return Panel(title, unit, (Query(expr, title),), description, "stat", thresholds, width=3, nothing=nothing)


def of_process(expr: str) -> str:
    """What prometheus-client says of a process, of those that are servers of erllama alone."""
    return f"{expr} and on (instance) erllama_build_info{{{HERE}}}"
