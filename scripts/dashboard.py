"""Writes deploy/grafana/erllama.json: the dashboard of a server's metrics, out of the tables of `dashboard_rows`.

It is Grafana's classic model of a dashboard, which Grafana imports from version 11 on, and 13 too. `make format` writes
it; a test holds the file to the tables, and each query to the series that the server has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashboard_panels import Panel, Query, Row
from dashboard_rows import ROWS

FILE = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "erllama.json"
SCHEMA = 39  # Grafana 11.0's; later ones read it
WIDTH = 24  # columns of Grafana's grid
HEIGHTS = {"stat": 4, "timeseries": 8, "table": 8, "heatmap": 8}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
LETTERS = "ABCDEFGH"
VARIABLES: tuple[tuple[str, str, str], ...] = (
    ("instance", "Instance", "label_values(erllama_build_info, instance)"),
    ("model", "Model", 'label_values(erllama_model_phase{instance=~"$instance"}, model)'),
)
DESCRIPTION = "What a server of erllama_py does and holds: its operations guide says what each number is."


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    return {
        "uid": "erllama-server", "title": "erllama", "description": DESCRIPTION, "tags": ["erllama", "llm"],
        "schemaVersion": SCHEMA, "version": 1, "editable": True, "graphTooltip": 1, "timezone": "browser",
        "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "annotations": {"list": [_restarts()]}, "links": [],
        "templating": {"list": [_datasource(), *(_variable(*one) for one in VARIABLES)]}, "panels": _panels(),
    }  # fmt: skip


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "includeAll": True, "multi": True,
        "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _restarts() -> dict[str, Any]:
    """Lines in all panels where a model came back after a crash."""
    query = 'sum by (model) (increase(erllama_model_restarts_total{instance=~"$instance", model=~"$model"}[1m])) > 0'
    return {
        "name": "Restarts of models", "datasource": SOURCE, "enable": True, "iconColor": "red", "expr": query,
        "titleFormat": "{{model}} was restarted", "step": "1m",
    }  # fmt: skip


def _panels() -> list[dict[str, Any]]:
    found, top = list[dict[str, Any]](), 0
    for row in ROWS:
        found.append({
            "id": len(found) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        })  # fmt: skip
        top += 1
        for panel, x, y in _placed(row, top):
            found.append(_panel(panel, len(found) + 1, x, y))
        top = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in found)
    return found


def _placed(row: Row, top: int) -> list[tuple[Panel, int, int]]:
    """The panels of a row from left to right, in as many lines as they need."""
    placed, x, y, height = list[tuple[Panel, int, int]](), 0, top, 0
    for panel in row.panels:
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        placed.append((panel, x, y))
        x, height = x + panel.width, max(height, HEIGHTS[panel.kind])
    return placed


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.description, "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHTS[panel.kind]},
        "targets": [_target(query, LETTERS[at], panel.kind) for at, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []}, "options": _options(panel),
        **({"transformations": [{"id": "merge", "options": {}}]} if panel.kind == "table" else {}),
    }  # fmt: skip


def _target(query: Query, letter: str, kind: str) -> dict[str, Any]:
    shape = {"table": "table", "heatmap": "heatmap"}.get(kind, "time_series")
    at_once = kind in ("stat", "table")
    return {
        "refId": letter, "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend, "format": shape,
        "instant": at_once, "range": not at_once, "editorMode": "code",
    }  # fmt: skip


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": color, "value": value} for value, color in panel.thresholds]
    bounds = {name: value for name, value in (("min", panel.least), ("max", panel.most)) if value is not None}
    found = {"unit": panel.unit, **bounds, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.nothing is not None:
        found["noValue"] = panel.nothing
    if panel.kind == "stat":
        return found | {"color": {"mode": "thresholds"}}
    if panel.kind != "timeseries":
        return found
    custom = {
        "drawStyle": "line", "lineWidth": 1, "fillOpacity": 20 if panel.stacked else 5, "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line+area" if panel.thresholds else "off"},
    }  # fmt: skip
    return found | {"color": {"mode": "palette-classic"}, "custom": custom}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        calculated = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": calculated, "colorMode": "value", "graphMode": "none", "textMode": "auto"}
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    if panel.kind == "heatmap":
        color = {"mode": "scheme", "scheme": "Oranges", "steps": 64}
        return {"calculate": False, "color": color, "yAxis": {"unit": panel.unit}, "cellGap": 1}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def page() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(page())
