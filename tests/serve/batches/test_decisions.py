"""What becomes of a line, which batch is next, what a tenant may keep: decided without a server."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.batches.choosing import Open, expired, next_batch, next_expiry, too_many
from erllama_py.serve.batches.lines import Place
from erllama_py.serve.batches.shelf import FileFacts, Quota, Shelf
from erllama_py.serve.batches.verdicts import MOST_CRASHES, MOST_SECONDS, Verdict, verdict
from erllama_py.serve.batches.waiting import Waiting


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "expected"),
    [
        (200, None, None, Verdict("done")),
        (400, "context_length_exceeded", None, Verdict("failed")),
        (404, "model_not_found", None, Verdict("failed")),
        (413, None, None, Verdict("failed")),
        (429, "queue_full", 1, Verdict("again", 1)),
        (429, "tokens_limit", 3600, Verdict("again", 3600)),
        (503, "model_loading", 5, Verdict("again", 5)),
        (409, "session_busy", 1, Verdict("again", 1)),
        (503, "model_crashed", 1, Verdict("again", 1)),
        (503, "model_crashed", None, Verdict("failed")),
        (500, "decode_failed", None, Verdict("failed")),
    ],
)  # fmt: skip
def test_what_may_go_well_later_is_asked_again(
    status: int, code: str | None, retry_after: float | None, expected: Verdict
) -> None:
    """As soon as its answer says, and no sooner."""
    assert verdict(status, code, retry_after, tries=1, crashes=code == "model_crashed") == expected


def test_a_line_that_its_model_crashes_over_is_given_up() -> None:
    """Else one line would take a model down for all."""
    outcomes = [verdict(503, "model_crashed", 1, tries, crashes=tries).outcome for tries in range(1, MOST_CRASHES + 1)]
    assert outcomes == ["again"] * (MOST_CRASHES - 1) + ["failed"]


@given(st.integers(1, 10_000), st.floats(0, 100))
def test_the_waits_grow_up_to_a_bound(tries: int, retry_after: float) -> None:
    """And are never shorter than the server asks for."""
    now, then = (verdict(429, None, retry_after, one, 0).seconds for one in (tries, tries + 1))
    assert retry_after <= now <= then <= max(MOST_SECONDS, retry_after)


OPEN = st.lists(
    st.builds(
        Open, st.sampled_from("abcde"), st.uuids().map(str), st.booleans(), st.integers(0, 9) | st.just(math.inf)
    ),
    max_size=12,
)


@given(OPEN, st.integers(1, 6), st.integers(1, 6))
def test_the_next_batch_is_of_the_tenant_that_has_the_fewest(open_: list[Open], most: int, tenants: int) -> None:
    """And its oldest. A tenant that has none at work has one, however many of others are, up to so many tenants."""
    running = [one.tenant for one in open_ if one.running]
    waiting = [one for one in open_ if not one.running]
    chosen = next_batch(open_, most, tenants)
    if chosen is None:
        assert not waiting or len(running) >= most
        assert not waiting or len(set(running)) >= tenants or {one.tenant for one in waiting} <= set(running)
        return
    assert chosen in waiting
    assert len(running) < most or (chosen.tenant not in running and len(set(running)) < tenants)
    assert all(running.count(chosen.tenant) <= running.count(one.tenant) for one in waiting)
    assert next(one for one in waiting if one.tenant == chosen.tenant) == chosen


@given(OPEN, st.integers(0, 9))
def test_a_batch_expires_though_its_turn_has_not_come(open_: list[Open], now: int) -> None:
    """As soon as its time is over; until then the next one is known."""
    one, then = expired(open_, now), next_expiry(open_)
    assert all(then <= each.expires_at for each in open_ if not each.running)
    assert (one is not None) == (then <= now)
    assert one is None or (one in open_ and not one.running and one.expires_at <= now)


def test_the_oldest_that_are_over_are_forgotten() -> None:
    """As few as make room for one more."""
    assert too_many(["a", "b", "c"], 1, most=5) == []
    assert too_many(["a", "b", "c"], 2, most=5) == ["a"]
    assert too_many(["a", "b", "c"], 3, most=5) == ["a", "b"]


def facts(name: str, size: int) -> FileFacts:
    return FileFacts(id=name, bytes=size, created_at=1, filename="f", purpose="batch")


def test_a_shelf_counts_what_is_there_and_what_is_coming() -> None:
    """Each bound by itself; what is deleted makes room."""
    shelf = Shelf(lambda: Quota(files=2, nbytes=100, file_bytes=80))
    shelf.coming, shelf.coming_bytes = 1, 81
    assert (shelf.refusal(81) or "")[0] == "file_too_large"
    shelf.add(facts("a", 60))
    shelf.coming_bytes = 41
    assert (shelf.refusal(41) or "")[0] == "storage_full"
    shelf.coming_bytes = 40
    assert shelf.refusal(40) is None
    shelf.add(facts("b", 0))
    assert (shelf.refusal(1) or "")[0] == "too_many_files"
    assert shelf.remove("b") == facts("b", 0)
    assert shelf.remove("b") is None
    assert shelf.refusal(1) is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(0, 9)), max_size=20))
def test_the_bytes_of_a_shelf_are_those_of_its_files(steps: list[tuple[bool, str, int]]) -> None:
    """Whatever is added, replaced and removed."""
    shelf = Shelf(lambda: Quota(files=9, nbytes=0, file_bytes=9))
    for add, name, size in steps:
        if add:
            shelf.add(facts(name, size))
        else:
            shelf.remove(name)
        assert (shelf.refusal(0) is None) == (sum(one.bytes for one in shelf.files.values()) == 0)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.data())
def test_lines_of_models_that_are_away_wait_and_none_is_lost(models: list[str], data: st.DataObject) -> None:
    """Each line comes until it is answered; one of a model that is there never waits for one of another."""
    waiting = Waiting([Place(number, 0, 0, 0, "") for number in range(len(models))])
    away, done, now = set(data.draw(st.sets(st.sampled_from("abc")))), list[int](), 0.0
    while (taken := waiting.next()) is not None:
        place, until = taken
        model = models[place.line]
        now += 1
        if until is not None:
            assert {models[line] for line in range(len(models)) if line not in done} <= away | {model}
            away -= {model} if data.draw(st.booleans()) or now > 100 else set()
        elif waiting.is_away(model):
            waiting.put_off(place, model)
            continue
        if model in away:
            waiting.put_off(place, model, now)
        else:
            done.append(place.line)
            waiting.is_there(model)
    assert sorted(done) == list(range(len(models)))
