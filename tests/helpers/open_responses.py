"""The OpenAPI document of Open Responses, 2026-04-24, as an oracle: whether a body or an event is what it says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import llm_comply
import msgspec
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

SPEC = Path(llm_comply.__file__).parent / "specs" / "openresponses.json"


@cache
def _spec() -> Any:
    spec = msgspec.json.decode(SPEC.read_bytes())
    # The document has lost the type of a schema that an answer tells again: it leaves null alone.
    shape = spec["components"]["schemas"]["JsonSchemaResponseFormat"]["properties"]["schema"]
    assert shape == {"anyOf": [{"type": "null"}]}
    shape["anyOf"].append({"type": "object"})
    return spec


@cache
def _validator(schema: str) -> Any:
    registry: Any = Registry().with_resource("spec:", Resource.from_contents(_spec(), DRAFT202012))
    ref = {"$ref": f"spec:#/components/schemas/{schema}"}
    return jsonschema.Draft202012Validator(ref, registry=registry)


@cache
def _events() -> dict[str, str]:
    """The schema of each type of event."""
    found = {}
    for name, schema in _spec()["components"]["schemas"].items():
        if name.endswith("StreamingEvent"):
            found[schema["properties"]["type"]["enum"][0]] = name
    return found


def check(value: Any, schema: str = "ResponseResource") -> Any:
    """The value, if it is what the specification says. Fails with the first thing that is not."""
    for error in _validator(schema).iter_errors(value):
        raise AssertionError(f"{error.json_path}: {error.message[:300]}")
    return value


def read_stream(text: str) -> list[Any]:
    """The events of a stream, each checked: its name, its number, its schema, its place; without the `[DONE]`."""
    assert text.endswith("data: [DONE]\n\n")
    events = list[Any]()
    for block in text.removesuffix("data: [DONE]\n\n").split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(events)
        events.append(check(event, _events()[event["type"]]))
    check_story(events)
    return events


def check_story(events: list[Any]) -> None:
    """Items are added in order, grow by deltas while they are open, and end as the response has them."""
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert last["type"] == f"response.{last['response']['status']}"
    grown: dict[int, dict[str, str]] = {}
    done: list[Any] = []
    for event in events[2:-1]:
        index, what = event["output_index"], event["type"]
        if what == "response.output_item.added":
            assert index == len(grown) == len(done)
            grown[index] = {"id": event["item"]["id"], "text": ""}
            continue
        assert index == len(done) == len(grown) - 1
        if what == "response.output_item.done":
            assert event["item"]["id"] == grown[index]["id"]
            done.append(event["item"])
            continue
        assert event["item_id"] == grown[index]["id"]
        grown[index]["text"] += event.get("delta", "")
        for name in ("text", "arguments"):
            if what.endswith(".done") and name in event:
                assert event[name] == grown[index]["text"]
    if last["type"] != "response.failed":
        assert done == last["response"]["output"]


def text_of(response: Any) -> str:
    """What an answer says."""
    return "".join(
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    )  # fmt: skip
