"""What spans say, as functions over data: the phases of any times, and attributes of what there is."""

from __future__ import annotations

import itertools
import re

import msgspec
import pytest
from helpers.project import TOP
from helpers.span_names import OTHERS, span_names
from helpers.traces import provider_of
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from erllama_py.options.request import RequestOptions
from erllama_py.results import CacheDelta, Completion, Stats, ToolCall
from erllama_py.watch.spans import Phase, of_completion, of_options, phases
from erllama_py.watch.tracer import tracer

TIMES = st.floats(0.0, 1e4)
STATS = Stats(
    queued_seconds=1.0, prefill_seconds=8.0, decode_seconds=16.0, lookup_seconds=2.0, restore_seconds=4.0,
    first_token_seconds=15.0, prefill_tokens=3, restored_bytes=100, decodes=4, tokens_per_second=1.0, seed=0,
    tier="ram", miss_reason=None,
)  # fmt: skip
DONE = Completion(
    reply="", generated=[1, 2, 3, 4, 5], prompt_tokens=10, context_tokens=15, committed_tokens=14, finish_key="ab",
    cache_hit_kind="partial", finish_reason="stop", stop_sequence=None, cache_delta=CacheDelta(7, 8), stats=STATS,
)  # fmt: skip


def test_phases_follow_each_other_as_they_were_measured() -> None:
    """From the call to the reply: what is between them is saving."""
    found = [(one.name.removeprefix("erllama."), one.start, one.end) for one in phases(DONE, 0.5, 40.0)]
    assert found == [
        ("prepare", 0.0, 0.5), ("queue", 0.5, 1.0), ("find_prefix", 1.0, 3.0), ("restore", 3.0, 7.0),
        ("prefill", 7.0, 15.0), ("decode", 15.0, 31.0), ("save", 31.0, 40.0),
    ]  # fmt: skip


def test_what_took_no_time_has_no_phase() -> None:
    """Without rows nothing was restored, and where nothing was saved there is no such phase."""
    quick = msgspec.structs.replace(STATS, restore_seconds=0.0, decode_seconds=0.0)
    done = msgspec.structs.replace(DONE, stats=quick, finish_key=None)
    assert [one.name for one in phases(done, 1.0, 11.0)] == [
        "erllama.prepare",
        "erllama.find_prefix",
        "erllama.prefill",
    ]


def test_a_prompt_that_was_never_there_was_prepared_to_the_end() -> None:
    """Its deadline passed meanwhile."""
    late = msgspec.structs.replace(
        STATS, lookup_seconds=0.0, restore_seconds=0.0, prefill_seconds=0.0, decode_seconds=0.0
    )
    done = msgspec.structs.replace(DONE, stats=late, finish_key=None)
    assert phases(done, None, 1.0) == [Phase("erllama.prepare", 0.0, 1.0, {"gen_ai.usage.input_tokens": 10})]


@given(st.lists(TIMES, min_size=5, max_size=5), st.none() | TIMES, TIMES, st.booleans())
def test_whatever_was_measured_phases_lie_inside_their_request(
    times: list[float], prepared: float | None, ended: float, saved: bool
) -> None:
    """One after another, each of them with some length, none before the call or after the reply: clocks are read in two
    threads."""
    queued, found, restored, prefilled, decoded = times
    stats = msgspec.structs.replace(
        STATS, queued_seconds=queued, lookup_seconds=found, restore_seconds=restored, prefill_seconds=prefilled,
        decode_seconds=decoded,
    )  # fmt: skip
    done = msgspec.structs.replace(DONE, stats=stats, finish_key="ab" if saved else None)
    spans = phases(done, prepared, ended)
    assert all(0.0 <= one.start < one.end <= ended for one in spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    assert sum(one.end - one.start for one in spans) <= ended * (1 + 1e-9)


@given(read=st.integers(0, 10), created=st.integers(0, 30))
def test_counts_of_the_prompt_are_parts_of_it(read: int, created: int) -> None:
    """As the conventions have it: what was read from the cache and what was written to it are among the input."""
    known = of_completion(msgspec.structs.replace(DONE, cache_delta=CacheDelta(read, created)), "m", streams=False)
    parts = [known[f"gen_ai.usage.cache_{way}.input_tokens"] for way in ("read", "write")]
    assert all(isinstance(part, int) and part >= 0 for part in parts)
    assert sum(part for part in parts if isinstance(part, int)) <= DONE.prompt_tokens


def test_a_reply_that_calls_tools_has_the_conventions_word() -> None:
    """One that was cut short has its own reason."""
    call = ToolCall(id="", name="add", arguments={}, text="")
    done = msgspec.structs.replace(DONE, tool_calls=(call,))
    assert of_completion(done, "m", streams=False)["gen_ai.response.finish_reasons"] == ["tool_call"]
    short = msgspec.structs.replace(done, finish_reason="length")
    assert of_completion(short, "m", streams=False)["gen_ai.response.finish_reasons"] == ["length"]


def test_what_was_not_asked_for_is_not_said() -> None:
    """A seed, a session, a number of replies; and the texts of a request never are."""
    known = of_options(RequestOptions(stop_sequences=("heron",), grammar="heron"), streams=False)
    absent = {"gen_ai.request.seed", "gen_ai.conversation.id", "gen_ai.request.choice.count", "gen_ai.request.stream"}
    assert not absent & set(known)
    assert known["gen_ai.output.type"] == "text"
    assert "heron" not in str(known)
    assert of_options(RequestOptions(json_schema={}, n=3), streams=True).items() >= {
        ("gen_ai.output.type", "json"), ("gen_ai.request.choice.count", 3), ("gen_ai.request.stream", True),
    }  # fmt: skip


def test_the_guide_lists_each_attribute_and_no_other() -> None:
    """Of calls and of requests over HTTP, in their tables; the names of phases and events are in its text."""
    guide = (TOP / "docs" / "guides" / "tracing.md").read_text()
    rows = [line.split(" | ")[0] for line in guide.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([a-z_]+\.[\w.]+)`", row)}
    assert span_names() >= OTHERS
    assert span_names() - OTHERS == listed
    assert [name for name in OTHERS if name not in guide] == []


def test_an_sdk_that_is_switched_off_makes_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own variable."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with provider_of(TracerProvider(shutdown_on_exit=False)):
        assert tracer() is None
    with provider_of(trace.ProxyTracerProvider()):
        assert tracer() is None
