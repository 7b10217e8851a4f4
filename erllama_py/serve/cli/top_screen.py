"""What `erllama top` draws: tables that suit the width of the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from erllama_py.serve.cli import screen
from erllama_py.serve.cli.sampled import ModelNow, TierNow, View

NAME_WIDTH = 28


class Column(msgspec.Struct, frozen=True):
    """One column: it is left out on a terminal that has fewer than `least` columns."""

    title: str
    least: int
    shown: Callable[..., str]


MODELS = (
    Column("model", 0, lambda one: _name(one.name)),
    Column("phase", 40, lambda one: one.phase),
    Column("tok/s", 0, lambda one: _rate(one.generated_per_second)),
    Column("prefill/s", 80, lambda one: _rate(one.computed_per_second)),
    Column("queue", 0, lambda one: f"{one.waiting:,}"),
    Column("sequences", 60, lambda one: f"{one.active}/{one.sequences}"),
    Column("cells", 100, lambda one: _share(one.cells_in_use, one.cells)),
    Column("requests", 110, lambda one: f"{one.requests:,}"),
    Column("hits", 70, lambda one: _hits(one)),
    Column("reused", 90, lambda one: "–" if one.reused_share is None else f"{one.reused_share:.0%}"),
    Column("restarts", 120, lambda one: f"{one.restarts:,}"),
    Column("went on", 130, lambda one: f"{one.continued:,}"),
)
TIERS = (
    Column("tier", 0, lambda one: _name(one.name)),
    Column("kind", 60, lambda one: one.kind),
    Column("used", 0, lambda one: screen.amount(one.used_bytes)),
    Column("of", 50, lambda one: screen.amount(one.quota_bytes)),
    Column("rows", 40, lambda one: f"{one.rows:,}"),
    Column("hits", 0, lambda one: f"{one.hits:,}"),
    Column("state", 70, lambda one: _state(one)),
)
TEXTS = 2  # columns whose cells are texts, in both


def drawn(shown: View, server: str, width: int) -> RenderableType:
    """All of it."""
    what = "shutting down" if shown.draining else f"{shown.open:,} of {shown.open_limit:,} requests open"
    head = Text(f"{screen.one_line(server)}  erllama_py {screen.one_line(shown.version)}  {what}", style="bold")
    parts: list[RenderableType] = [head, Text(""), _table(MODELS, shown.models, width)]
    if not shown.models:
        parts.append(Text("no model is loaded"))
    if shown.tiers:
        parts += [Text(""), _table(TIERS, shown.tiers, width)]
    if shown.misses:
        parts += [Text(""), Text(f"misses: {_counts(shown.misses)}")]
    return Group(*parts)


def waiting(server: str, problem: str) -> RenderableType:
    """Where the server does not answer."""
    return Text(f"{screen.one_line(server)}\n\n{screen.one_line(problem)}\n\nIt is asked again; q ends this.")


def _table(columns: tuple[Column, ...], things: tuple[ModelNow, ...] | tuple[TierNow, ...], width: int) -> Table:
    fitting = [column for column in columns if column.least <= width]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(fitting):
        table.add_column(column.title, justify="left" if number < TEXTS and width >= 40 else "right")
    for one in things:
        table.add_row(*(escape(screen.one_line(column.shown(one))) for column in fitting))
    return table


def _name(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.0f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _hits(one: ModelNow) -> str:
    cold = one.hits.get("cold", 0)
    total = sum(one.hits.values())
    return f"{total - cold:,}/{total:,}"


def _state(tier: TierNow) -> str:
    if tier.opened < 1:
        return f"opening, {tier.opened:.0%}"
    return "ok" if tier.writable else "cannot be written"


def _counts(counts: Mapping[str, int]) -> str:
    """Those that happen most first."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{screen.one_line(name)} {count:,}" for name, count in most)
