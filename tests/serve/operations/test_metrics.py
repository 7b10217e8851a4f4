"""`/metrics`: every number that the library has, under names that Prometheus' conventions allow."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers.project import TOP
from helpers.served import Served, served
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.operations import series
from erllama_py.serve.operations.cache_names import labelled
from erllama_py.serve.operations.meters import MOST_MODELS, RequestMeters

ASK: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello " * 80}],
    "max_tokens": 8,
    "temperature": 0,
}
UNITS = ("seconds", "bytes", "tokens", "ratio")


async def samples(at: Served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All of them, by name and labels."""
    answer = await at.client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def at(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.mark.anyio
async def test_requests_are_counted_with_their_tokens_and_times() -> None:
    """Streams by each of their pieces."""
    async with served() as here:
        usage = (await here.client.post("/v1/chat/completions", json=ASK)).json()["usage"]
        assert (await here.client.post("/v1/chat/completions", json=ASK | {"stream": True})).status_code == 200
        assert (await here.client.post("/v1/chat/completions", json={})).status_code == 400
        found = await samples(here)
        route = {"api": "openai", "route": "/v1/chat/completions"}
        assert found[at("erllama_http_requests_total", status="200", **route)] == 2
        assert found[at("erllama_http_requests_total", status="400", **route)] == 1
        assert found[at("erllama_http_requests_in_progress", **route)] == 0
        assert found[at("erllama_http_request_duration_seconds_count", **route)] == 3
        model = {"api": "openai", "model": "tiny"}
        assert found[at("erllama_http_prompt_tokens_total", **model)] == 2 * usage["prompt_tokens"]
        assert found[at("erllama_http_generated_tokens_total", **model)] == 16
        assert found[at("erllama_http_cached_tokens_total", **model)] > 0
        assert found[at("erllama_replies_total", finish_reason="length", **model)] == 2
        assert found[at("erllama_time_to_first_token_seconds_count", model="tiny")] == 2
        assert found[at("erllama_inter_token_seconds_count", model="tiny")] >= 4


@pytest.mark.anyio
async def test_models_and_the_cache_are_told_as_the_library_tells_them() -> None:
    """The numbers are its own."""
    async with served() as here:
        for _ in range(2):
            await here.client.post("/v1/chat/completions", json=ASK)
        await here.runtime.cache.flush()
        found, counters = await samples(here), here.model.counters
        assert found[at("erllama_model_ticks_total", model="tiny")] == counters.decodes > 0
        assert found[at("erllama_model_kv_cells", model="tiny")] == counters.cells == 2048
        assert found[at("erllama_model_loads_total", model="tiny")] == 1
        assert found[at("erllama_model_phase", model="tiny", phase="idle")] == 1
        cache = await here.runtime.cache.counters()
        assert found[at("erllama_cache_misses_total", reason="empty")] == cache["misses.empty"] == 1
        assert found[at("erllama_cache_hits_total", kind="live")] == cache["hits.live"] == 1
        assert found[at("erllama_cache_saved_bytes_total", tier="ram")] == cache["saves.bytes.ram"] > 0
        assert found[at("erllama_tier_used_bytes", tier="ram", kind="ram")] > 0
        assert found[at("erllama_supervised_up", supervisor="models", child="model:tiny")] == 1


@pytest.mark.anyio
async def test_every_number_of_a_model_is_on_the_page() -> None:
    """One that is added to the library is missed here."""
    assert set(series.MODEL) == set(erllama.ModelCounters.__struct_fields__)


@pytest.mark.anyio
async def test_the_page_has_each_series_that_is_listed_and_no_other() -> None:
    """With its help and type; processes' own are prometheus-client's."""
    async with served() as here:
        page = (await here.client.get("/metrics")).text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", page, re.M))
    ours = {name: kind for name, kind in types.items() if not name.startswith("process_")}
    assert ours == {one.shown: one.kind for one in series.ALL}
    assert {name: text for name, text in helps.items() if name in ours} == {one.shown: one.help for one in series.ALL}


def test_the_guide_lists_each_series_and_no_other() -> None:
    """With its labels."""
    guide = (TOP / "docs" / "guides" / "operations.md").read_text()
    listed = dict(re.findall(r"^\| `(erllama_\w+)` \| ([^|]*?) \|", guide, re.M))
    labels = {name: tuple(re.findall(r"`(\w+)`", text)) for name, text in listed.items()}
    assert labels == {one.shown: one.labels for one in series.ALL}


def test_names_follow_the_conventions() -> None:
    """Snake case, base units at the end, one series a name, a sentence of help."""
    names = [one.shown for one in series.ALL]
    assert len(set(names)) == len(names)
    for one in series.ALL:
        assert re.fullmatch(r"erllama_[a-z][a-z0-9_]*[a-z]", one.name)
        assert not one.name.endswith(("_total", "_count", "_sum", "_bucket", "_milliseconds"))
        assert one.help.endswith(".")
        if one.kind == "histogram":
            assert one.name.endswith(UNITS)


@pytest.mark.anyio
async def test_what_a_client_says_never_becomes_a_label() -> None:
    """Neither a model that is not there nor a path."""
    async with served() as here:
        await here.client.post("/v1/chat/completions", json=ASK | {"model": "evil-model"})
        await here.client.get("/evil-path")
        await here.client.get("/v1/models/evil-model")
        page = (await here.client.get("/metrics")).text
        assert "evil" not in page
        found = await samples(here)
        assert found[at("erllama_http_requests_total", api="none", route="unknown", status="404")] == 1


@pytest.mark.anyio
async def test_two_applications_count_for_themselves() -> None:
    """Over one runtime as well."""
    async with served() as one:
        other: App = create_app(one.runtime)
        await one.client.get("/v1/models")
        mine, theirs = one.app.service.meters, other.service.meters
        assert isinstance(mine, RequestMeters)
        assert isinstance(theirs, RequestMeters)
        assert mine.requests.total() == 1
        assert theirs.requests.total() == 0


@pytest.mark.anyio
async def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    """And can be read as such."""
    async with served() as here:
        await here.client.post("/v1/chat/completions", json=ASK)
        accept = "application/openmetrics-text; version=1.0.0"
        answer = await here.client.get("/metrics", headers={"accept": accept})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert "erllama_http_requests" in {family.name for family in openmetrics(answer.text)}  # type: ignore[no-untyped-call]  # it has no types


@pytest.mark.anyio
async def test_a_closed_runtime_has_a_page() -> None:
    """Of what requests were, and of a cache that is not up."""
    async with served() as here:
        await here.client.get("/v1/models")
        await here.runtime.__aexit__(None, None, None)
        found = await samples(here)
        assert found[at("erllama_cache_up")] == 0
        assert found[at("erllama_models_loaded")] == 0
        assert found[at("erllama_http_requests_total", api="openai", route="/v1/models", status="200")] == 1


def test_models_beyond_a_bound_are_counted_together() -> None:
    """An application that loads and unloads models for months does not grow its page for ever."""
    meters = RequestMeters()
    for number in range(2 * MOST_MODELS):
        meters.gap(f"m{number}", 0.01)
    assert len(meters.gaps.known) == MOST_MODELS + 1
    assert meters.gaps.known["other"].buckets()[-1][1] == MOST_MODELS


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_has_each_observation_in_all_buckets_from_its_own_on(values: list[float]) -> None:
    """As Prometheus counts them."""
    meters = RequestMeters()
    for value in values:
        meters.gap("m", value)
    for histogram in meters.gaps.known.values():
        assert histogram.total == sum(values)
        for bound, count in histogram.buckets():
            assert count == sum(value <= float(bound) for value in values)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hits.exact", ("hits", "exact")),
        ("hits.tier.my.disk", ("hits.tier", "my.disk")),
        ("saves.dropped.no_room", ("saves.dropped", "no_room")),
        ("saves.finish", ("saves", "finish")),
        ("evicted_bytes.ram", ("evicted_bytes", "ram")),
        ("keeps.refused", ("keeps", "refused")),
        ("healed.times", ("healed", "times")),
        ("unheard", ("unheard", "")),
    ],
)
def test_counters_of_the_cache_are_taken_apart(name: str, parts: tuple[str, str]) -> None:
    """By the longest beginning that is known."""
    assert labelled(name) == parts


def test_every_counter_of_the_cache_has_a_series() -> None:
    """All that the caching guide lists: none is left off the page."""
    table = (TOP / "docs" / "guides" / "caching.md").read_text().split("## Counters\n", 1)[1].split("\n## ", 1)[0]
    names = [name.replace("*", "any") for line in table.splitlines() if line.startswith("| `") for name in
             re.findall(r"`([a-z_]+\.[a-z_.*]+)`", line.split("|")[1])]  # fmt: skip
    assert {"healed.times", "keeps.rows", "saves.dropped.any", "restored.rows"} < set(names)
    assert [name for name in names if name not in series.CACHE and labelled(name)[0] not in series.CACHE] == []
