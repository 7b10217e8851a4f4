"""The file of a batch: each line checked, wherever the pieces end in which it comes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.batches import CHAT, jsonl, line
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.batches.lines import (
    MOST_PROBLEMS,
    Bounds,
    Head,
    LineProblem,
    Place,
    Scan,
    body_of,
    group_of,
    head_of,
    with_model,
)
from erllama_py.serve.batches.ordering import in_order

BOUNDS = Bounds(lines=40, line_bytes=600)


def scanned(data: bytes, size: int = 1 << 20, **given: Any) -> tuple[Scan, list[Place]]:
    """A file, fed in pieces of a size."""
    scan = Scan(given.pop("bounds", BOUNDS), **given)
    found = [place for at in range(0, len(data), size) for place in scan.feed(data[at : at + size])]
    return scan, found + scan.end()


GOOD = st.builds(line, st.integers(0, 10**6), text=st.text(max_size=30))
BAD = st.sampled_from([b"", b"{", b"[]", b'{"custom_id":"a"}', b"\xff\xfe", b"x" * 700, b"  ", b'{"a":' * 200])
LINES = st.lists(st.one_of(GOOD.map(msgspec.json.encode), BAD), max_size=12)
ENDS = st.sampled_from([b"\n", b"\r\n"])


@given(LINES, ENDS, st.booleans(), st.integers(1, 300))
def test_the_pieces_of_a_file_change_nothing(lines: list[bytes], end: bytes, closed: bool, size: int) -> None:
    """The same places and the same problems, and each place holds its line."""
    data = end.join(lines) + (end if closed else b"")
    whole, places = scanned(data)
    again, found = scanned(data, size)
    assert (found, again.problems, again.total, again.models) == (places, whole.problems, whole.total, whole.models)
    for place in places:
        body = body_of(data[place.offset : place.offset + place.length], place.custom_id)
        assert body is not None
        assert head_of(body).model == "tiny"
        assert lines[place.line - 1].strip() == data[place.offset : place.offset + place.length].strip()


@given(LINES)
def test_a_line_is_taken_or_complained_of(lines: list[bytes]) -> None:
    """One that is neither is empty, or comes after all that is read; no id is taken twice."""
    scan, places = scanned(b"\n".join(lines))
    told = {place.line for place in places} | {problem.line for problem in scan.problems}
    assert told >= {number for number, text in enumerate(lines, 1) if text.strip()}
    assert len({place.custom_id for place in places}) == len(places)


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff{}", "invalid_json_line", None),
        (b'{"custom_id":"b","body":' + b"[" * 5000, "invalid_json_line", None),
        (b"[1]", "invalid_line", None),
        (b'{"url":"/v1/chat/completions","body":{}}', "missing_required_parameter", "custom_id"),
        (b'{"custom_id":"b","url":"/v1/chat/completions"}', "missing_required_parameter", "body"),
        (b'{"custom_id":"","url":"/v1/chat/completions","body":{}}', "invalid_line", "custom_id"),
        (b'{"custom_id":7,"url":"/v1/chat/completions","body":{}}', "invalid_line", "custom_id"),
        (b'{"custom_id":"b","method":"GET","url":"/v1/chat/completions","body":{}}', "invalid_line", "method"),
        (b'{"custom_id":"b","url":"/v1/embeddings","body":{}}', "mismatched_url", "url"),
        (b'{"custom_id":"line-1","url":"/v1/chat/completions","body":{}}', "duplicate_custom_id", "custom_id"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(text: bytes, code: str, param: str | None) -> None:
    """By its number, with a word for programs and the part that is at fault."""
    data = jsonl([line(1)]) + b"\n" + text + b"\n" + jsonl([line(3)])
    scan, places = scanned(data, endpoint=CHAT, bounds=Bounds(40, 10_000))
    assert [(one.line, one.code, one.param) for one in scan.problems] == [(3, code, param)]
    assert scan.problems[0].message
    assert [place.custom_id for place in places] == ["line-1", "line-3"]


def test_a_file_without_a_line_is_none() -> None:
    """Also one of empty lines."""
    for data in (b"", b"\n\n \n"):
        scan, _ = scanned(data)
        assert scan.problems == [LineProblem("empty_file", "the file has no line")]


def test_a_huge_line_is_never_held_whole() -> None:
    """It is one problem, and the lines after it are read."""
    scan = Scan(BOUNDS)
    scan.feed(jsonl([line(1)]) + b'{"custom_id": "')
    for _ in range(50):
        scan.feed(b"x" * 500)
        assert len(scan._rest) <= BOUNDS.line_bytes
    found = scan.feed(b'"}\n' + jsonl([line(3)])) + scan.end()
    assert [(one.line, one.code) for one in scan.problems] == [(2, "line_too_long")]
    assert [place.line for place in found] == [3]


def test_a_file_with_too_many_lines_or_problems_is_not_read_to_its_end() -> None:
    """One problem says how many lines there may be; of problems there are so many at most."""
    scan, places = scanned(jsonl(line(number) for number in range(100)))
    assert [(one.line, one.code) for one in scan.problems] == [(41, "too_many_tasks")]
    assert scan.given_up
    assert len(places) == 40
    bad, _ = scanned(b"{\n" * 200, bounds=Bounds(1000, 600))
    assert len(bad.problems) == MOST_PROBLEMS
    assert bad.given_up


def test_a_byte_order_mark_is_passed_over() -> None:
    """Some programs put it before UTF-8."""
    data = b"\xef\xbb\xbf" + jsonl([line(1)])
    scan, (place,) = scanned(data)
    assert not scan.problems
    body = body_of(data[place.offset : place.offset + place.length], place.custom_id)
    assert body is not None
    assert head_of(body).model == "tiny"


def test_a_batch_without_an_endpoint_takes_that_of_its_first_line() -> None:
    """The others have to name the same."""
    scan, _ = scanned(jsonl([line(1, url="/v1/embeddings"), line(2)]))
    assert scan.endpoint == "/v1/embeddings"
    assert [one.code for one in scan.problems] == ["mismatched_url"]


SYSTEM: Any = {"role": "system", "content": "Answer in a word. " * 60}


def test_prompts_that_begin_alike_are_one_group() -> None:
    """By their first message, or the beginning of a prompt in one piece, and by their model."""
    ask: Any = {"role": "user", "content": "a"}
    other: Any = {"role": "user", "content": "b"}

    def of(body: object) -> int:
        return group_of(head_of(msgspec.json.encode(body)))

    assert of({"model": "m", "messages": [SYSTEM, ask]}) == of({"model": "m", "messages": [SYSTEM, other]})
    assert of({"model": "m", "messages": [SYSTEM, ask]}) != of({"model": "n", "messages": [SYSTEM, ask]})
    assert of({"model": "m", "messages": [ask]}) != of({"model": "m", "messages": [other]})
    long = "text " * 200
    assert of({"prompt": long + "a"}) == of({"prompt": long + "b"}) != of({"input": "x" + long})
    assert of([]) == of("nothing that an endpoint takes") == group_of(Head())


@given(st.lists(st.integers(0, 4), max_size=30), st.sets(st.integers(1, 30)))
def test_the_order_has_each_open_line_once_and_groups_together(groups: list[int], done: set[int]) -> None:
    """Groups by their first lines, lines of a group in the order of the file."""
    places = [Place(number, 0, 0, group, str(number)) for number, group in enumerate(groups, 1)]
    found = in_order(places, done)
    assert sorted(place.line for place in found) == [place.line for place in places if place.line not in done]
    runs = [place.group for at, place in enumerate(found) if not at or found[at - 1].group != place.group]
    assert len(runs) == len(set(runs))
    for group in set(groups):
        own = [place.line for place in found if place.group == group]
        assert own == sorted(own)


def test_a_body_gets_another_model_and_keeps_the_rest() -> None:
    """To the letter, numbers too; one that is no object stays as it is."""
    body = b'{"model":"gpt-4o","temperature":0.10,"messages":[{"role":"user","content":"\\u00e9"}]}'
    assert with_model(body, "mine") == body.replace(b"gpt-4o", b"mine")
    assert with_model(b'{"a":1}', "mine") == b'{"a":1,"model":"mine"}'
    assert with_model(b"[1]", "mine") == b"[1]"
