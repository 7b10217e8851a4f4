"""The dashboard and the alerts in `deploy`: each query finds something in what a server has at `/metrics`."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from itertools import combinations
from typing import Any

import dashboard
import pytest
import yaml  # type: ignore[import-untyped]  # it has no types
from helpers.project import TOP
from helpers.promql import Expression, Wrong, query
from helpers.served import served
from prometheus_client.parser import text_string_to_metric_families as parse

from erllama_py.serve.operations import series

GRAFANA, ALERTS = TOP / "deploy" / "grafana" / "erllama.json", TOP / "deploy" / "prometheus" / "alerts.yml"
TARGET = frozenset({"instance", "job"})  # what Prometheus itself adds
HISTOGRAM = ("_bucket", "_count", "_sum")
# Series that no panel shows, each with the reason.
LEFT_OUT: dict[str, str] = {}
UNITS = {"none", "s", "bytes", "Bps", "reqps", "ops", "percentunit"}  # by Grafana's ids
VARIABLE = re.compile(r"\$(?:__\w+|\w+|\{\w+\})")


@cache
def labels_by_name() -> dict[str, frozenset[str]]:
    """The labels of every name that a query may use."""
    found = dict.fromkeys(PROCESS, TARGET)
    for one in series.ALL:
        labels = frozenset(one.labels) | TARGET
        if one.kind == "histogram":
            found |= {f"{one.name}{end}": labels | ({"le"} if end == "_bucket" else set()) for end in HISTOGRAM}
        else:
            found[one.shown] = labels
    return found


# Of prometheus-client; a test compares them with the page.
PROCESS = (
    "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
    "process_max_fds", "process_start_time_seconds",
)  # fmt: skip


def checked(text: str) -> Expression:
    """What a query gives, with Grafana's variables in place. Raises `Wrong`."""
    filled = text.replace("$__rate_interval", "5m").replace("$__range", "3h")
    return query(VARIABLE.sub("x", filled), labels_by_name().get)


def grafana() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GRAFANA.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in grafana()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    assert [group["name"] for group in groups] == ["erllama"]
    return [rule for group in groups for rule in group["rules"]]


def names_in(expressions: list[Expression]) -> set[str]:
    """The series of queries, as the page of metrics has them."""
    names = {name for one in expressions for name in one.series}
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


@pytest.mark.anyio
async def test_names_and_labels_are_those_of_a_page_of_metrics() -> None:
    """What is known here of series is what a server really gives."""
    async with served() as at:
        await at.client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        )
        page = (await at.client.get("/metrics")).text
    samples = [sample for family in parse(page) for sample in family.samples]
    assert {sample.name for sample in samples} <= set(labels_by_name())
    assert [one.name for one in samples if frozenset(one.labels) | TARGET != labels_by_name()[one.name]] == []
    assert {sample.name for sample in samples if sample.name.startswith("process_")} == set(PROCESS)


def test_the_dashboard_is_what_its_tables_say() -> None:
    """`make format` writes it."""
    assert GRAFANA.read_text() == dashboard.page(), "run: make format, or python scripts/dashboard.py"


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_queries_of_a_panel_are_sound_and_name_what_they_find(panel: dict[str, Any]) -> None:
    """Syntax, series, labels, and labels in the names of lines; filtered by the variables."""
    assert panel["targets"]
    for target in panel["targets"]:
        found = checked(target["expr"])
        assert found.kind == "v"
        assert set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"])) <= found.labels
        assert target["legendFormat"] or panel["type"] == "table"
        selectors = re.findall(r"\w+\{([^{}]*)\}", target["expr"])
        assert selectors
        assert all('instance=~"$instance"' in one for one in selectors)
        of_models = [name for name in found.series if "model" in labels_by_name()[name]]
        assert target["expr"].count('model=~"$model"') >= len(of_models)
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends)


def test_every_series_is_on_the_dashboard_or_left_out_for_a_reason() -> None:
    """One that is added to the server is missed here."""
    shown = names_in([checked(target["expr"]) for panel in panels() for target in panel["targets"]])
    all_ = {one.shown for one in series.ALL}
    assert all_ - shown == set(LEFT_OUT)
    assert all(LEFT_OUT.values())


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Its classic model: what it must have, ids and letters that are used once, panels inside the grid and beside each
    other, data by a variable, units that there are."""
    found = grafana()
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time", "refresh", "annotations"} <= set(found)
    assert len(found["uid"]) <= 40
    ids = Counter(panel["id"] for panel in found["panels"])
    assert set(ids.values()) == {1}
    places = [panel["gridPos"] for panel in found["panels"]]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= 24 and at["h"] > 0 and at["y"] >= 0 for at in places)
    assert not [1 for one, other in combinations(places, 2) if _overlap(one, other)]
    for panel in panels():
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert {panel["datasource"]["uid"], *(one["datasource"]["uid"] for one in panel["targets"])} == {
            "${datasource}"
        }
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


def test_units_fit_what_is_shown() -> None:
    """Bytes are bytes, seconds seconds; a rate is so much a second, and shares go from 0 to 1."""
    for panel in panels():
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            names, text = checked(target["expr"]).series, target["expr"]
            if unit == "bytes":
                assert all(name.endswith("_bytes") for name in names - {"erllama_build_info"}), panel["title"]
                assert "rate(" not in text
            if unit == "Bps":
                assert all(name.endswith("_bytes_total") for name in names), panel["title"]
            if unit == "s":
                assert any("seconds" in name for name in names), panel["title"]
            if unit == "percentunit":
                assert " / " in text or any("_seconds_total" in name for name in names), panel["title"]
            if unit in ("reqps", "ops"):
                assert "rate(" in text, panel["title"]


def test_variables_are_filled_from_series_that_are_there() -> None:
    """The source of data, instances, and the models of those."""
    variables = grafana()["templating"]["list"]
    assert [one["name"] for one in variables] == ["datasource", "instance", "model"]
    for one in variables[1:]:
        match = re.fullmatch(r"label_values\((\w+(?:\{.*\})?), (\w+)\)", one["query"]["query"])
        assert match is not None
        assert match[2] in checked(match[1]).labels
        assert one["query"]["query"] == one["definition"]
    used = {name for panel in panels() for target in panel["targets"] for name in VARIABLE.findall(target["expr"])}
    assert used == {"$instance", "$model", "$__rate_interval"}
    annotation = grafana()["annotations"]["list"][0]
    assert "model" in checked(annotation["expr"]).labels


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_sound_and_says_what_it_is_about(rule: dict[str, Any]) -> None:
    """Its condition finds what there is, and its words name labels that its samples have."""
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Erllama([A-Z][a-z]+)+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert rule["labels"]["severity"] in ("critical", "warning")
    found, said = checked(rule["expr"]), rule["annotations"]
    assert set(said) == {"summary", "description"}
    text = said["summary"] + said["description"]
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= found.labels
    assert set(re.findall(r"\{\{ (?!\$labels\.\w+ \}\}|\$value \| humanize\w* \}\})", text)) == set()
    assert all(one.endswith(".") for one in said.values())
    assert re.search(r"(==|>|<) *[\d.]+|^absent\(", rule["expr"])


def test_alerts_have_names_of_their_own_and_the_guide_lists_them() -> None:
    """With their severity, in the order of the file."""
    guide = (TOP / "docs" / "guides" / "operations.md").read_text()
    listed = re.findall(r"^\| `(Erllama\w+)` \| (\w+) \|", guide, re.M)
    assert listed == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


def test_a_query_for_a_series_that_is_not_there_is_found() -> None:
    """The check itself, with a series that was renamed and a label that a series never had."""
    with pytest.raises(Wrong, match="no series"):
        checked('rate(erllama_http_request_total{instance=~"$instance"}[$__rate_interval])')
    with pytest.raises(Wrong, match="labels"):
        checked("sum by (model) (erllama_http_requests_in_progress)")
