"""The checker of PromQL itself: it takes what Prometheus takes, and refuses what it refuses or what finds nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest
from helpers.promql import Wrong, query
from hypothesis import given
from hypothesis import strategies as st

SERIES = {
    "a_total": frozenset({"instance", "model", "route"}),
    "b_total": frozenset({"instance", "model", "route"}),
    "h_seconds_bucket": frozenset({"instance", "model", "le"}),
    "gauge": frozenset({"instance", "model"}),
    "info": frozenset({"instance", "version"}),
}
GOOD = {
    "gauge": {"instance", "model"},
    'gauge{model="x", instance=~"a|b"} > 3': {"instance", "model"},
    "sum(gauge)": set(),
    "sum by (model) (rate(a_total[5m]))": {"model"},
    "sum(rate(a_total[5m])) by (model, route)": {"model", "route"},
    "sum without (route) (a_total)": {"instance", "model"},
    "histogram_quantile(0.95, sum by (le, model) (rate(h_seconds_bucket[5m])))": {"model"},
    "rate(a_total[1m]) / rate(b_total[1m30s])": {"instance", "model", "route"},
    "100 * (1 - gauge / clamp_min(gauge, 1))": {"instance", "model"},
    "gauge > 0.8 and on (instance) info": {"instance", "model"},
    "gauge * on (instance) group_left (version) info": {"instance", "model", "version"},
    "topk(3, sum by (model) (gauge))": {"model"},
    "absent(info)": set(),
    "time() - gauge": {"instance", "model"},
    "max_over_time(gauge[1h] offset 1d)": {"instance", "model"},
    "-gauge ^ 2": {"instance", "model"},
    "(gauge == bool 1) or info": {"instance", "model", "version"},
}
BAD = {
    "nothing": "no series",
    "gauge{route='x'}": "nothing of PromQL",
    'gauge{route="x"}': "labels \\['route'\\]",
    "sum by (route) (gauge)": "labels \\['route'\\]",
    "rate(gauge[5m])": "no counter",
    "rate(a_total)": "takes 'm'",
    "sum(a_total[5m])": "takes 'v'",
    "a_total[5]": "duration",
    "histogram_quantile(0.5, sum(rate(h_seconds_bucket[5m])))": "labels \\['le'\\]",
    "histogram_quantile(sum(gauge), 0.5)": "takes 'sv'",
    "median(gauge)": "no function",
    "sum(gauge": "expected",
    "gauge gauge": "end",
    "gauge > ": "expected",
    "gauge / info": "never match",
    "gauge / on (model) info": "labels \\['model'\\]",
    "1 and 2": "between numbers",
    "1 > 2": "between numbers",
    "gauge and 2": "two vectors",
    "gauge ~ 2": "nothing of PromQL",
    'gauge{model=~"("}': "no pattern",
    'gauge{model="x" instance="y"}': "','",
    'gauge{model>"x"}': "matches nothing",
    "": "expected",
}


@pytest.mark.parametrize("text", GOOD)
def test_it_takes_queries_and_says_their_labels(text: str) -> None:
    """Those that samples of the result may have."""
    assert query(text, SERIES.get).labels == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_it_says_what_is_wrong(text: str) -> None:
    """Of syntax, of types, of series and of labels."""
    with pytest.raises(Wrong, match=BAD[text]):
        query(text, SERIES.get)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_query_that_lost_a_bracket_is_wrong(text: str, data: st.DataObject) -> None:
    """Any one of them."""
    places = [at for at, letter in enumerate(text) if letter in "(){}[]"]
    if places:
        at = data.draw(st.sampled_from(places))
        with pytest.raises(Wrong):
            query(text[:at] + text[at + 1 :], SERIES.get)


@given(st.text(alphabet='abgue_total(){}[]"=~!<>+-*/, 0123456789smh', max_size=60))
def test_whatever_it_is_given_it_answers(text: str) -> None:
    """With an expression or with what is wrong, and nothing else."""
    with suppress(Wrong):
        assert query(text, SERIES.get).kind in "svm"
