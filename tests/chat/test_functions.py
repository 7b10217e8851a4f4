"""Python functions as tools: their schemas, and their arguments."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.docstrings import read_docstring
from erllama_py.chat.functions import function_of, name_of
from erllama_py.chat.tool import tools_of
from erllama_py.handle.callable_tools import offered


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


@dataclasses.dataclass
class Place:
    city: str
    country: str = "BE"


class Trip(pydantic.BaseModel):
    days: int = pydantic.Field(ge=1)
    place: Place


async def forecast(
    place: Place, unit: Unit, days: Annotated[int, "how many, from today"] = 1, kind: Literal["rain", "wind"] = "rain"
) -> str:
    """Says what the weather
    will be.

    Args:
        place: where
            it is asked of
        kind (str): what of it
    Returns:
        A text.
    """
    return f"{place} {unit} {days} {kind}"


def test_a_function_says_its_schema() -> None:
    """Type hints make the schema, the docstring and `Annotated` the texts, a default makes an argument optional."""
    function = function_of(forecast)
    assert name_of(forecast) == "forecast"
    assert function.description == "Says what the weather will be."
    assert function.is_async
    properties = function.parameters["properties"]
    assert function.parameters["required"] == ["place", "unit"]
    assert properties["place"] == {"$ref": "#/$defs/Place", "description": "where it is asked of"}
    assert function.parameters["$defs"]["Place"]["properties"]["city"] == {"type": "string"}
    assert properties["days"] == {"type": "integer", "description": "how many, from today", "default": 1}
    assert properties["kind"] == {"enum": ["rain", "wind"], "description": "what of it", "default": "rain"}


def test_arguments_get_their_types() -> None:
    """What JSON holds becomes what the hints name: dataclasses, enums, dates, pydantic's models."""

    def plan(trip: Trip, start: datetime.date, units: set[Unit], by_day: dict[int, str], none: str | None) -> None: ...

    function = function_of(plan)
    assert function.read({
        "trip": {"days": 2, "place": {"city": "Ghent"}}, "start": "2026-11-28", "units": ["kelvin"],
        "by_day": {"1": "rain"}, "none": None,
    }) == {
        "trip": Trip(days=2, place=Place("Ghent")), "start": datetime.date(2026, 11, 28), "units": {Unit.KELVIN},
        "by_day": {1: "rain"}, "none": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "arguments are missing: place, unit"),
        ({"place": {"city": "Ghent"}, "unit": "kelvin", "day": 1}, "no argument 'day'; there are: place, unit, days"),
        ({"place": {}, "unit": "kelvin"}, "the argument 'place' is refused: .*missing required field `city`"),
        ({"place": {"city": "Ghent"}, "unit": "rankine"}, "the argument 'unit' is refused: Invalid enum value"),
        ({"place": {"city": "Ghent"}, "unit": "kelvin", "days": "1"}, "'days' is refused: Expected `int`, got `str`"),
    ],
)
def test_wrong_arguments_are_told_in_words(arguments: dict[str, Any], problem: str) -> None:
    """A model that reads it can do better."""
    with pytest.raises(ValueError, match=problem):
        function_of(forecast).read(arguments)


def test_definitions_of_the_same_name_are_kept_apart() -> None:
    """Two types may be called the same; each argument refers to its own."""

    def inner() -> type:
        @dataclasses.dataclass
        class Place:
            street: str

        return Place

    def go(to: Any, start: Any) -> None: ...

    go.__annotations__ = {"to": Place, "start": inner()}
    parameters = function_of(go).parameters
    assert parameters["properties"] == {"to": {"$ref": "#/$defs/Place"}, "start": {"$ref": "#/$defs/Place2"}}
    assert list(parameters["$defs"]["Place2"]["properties"]) == ["street"]


class Shop:
    def price(self, item: str) -> float:
        """What an item costs."""
        return len(self.name) + len(item)

    name = "shop"

    @classmethod
    def open(cls, day: int) -> bool:
        """Whether it is open."""
        return day < 6

    def __call__(self, item: str) -> str:
        """Sells an item."""
        return item


class Kiosk:
    """A shop in the street."""

    async def __call__(self, item: str) -> str:
        return item


def weather(user: int, city: str, *, unit: str = "C") -> str:
    """Tells the weather."""
    return f"{user} {city} {unit}"


@pytest.mark.parametrize(
    ("function", "name", "arguments", "description"),
    [
        (Shop().price, "price", ["item"], "What an item costs."),
        (Shop.open, "open", ["day"], "Whether it is open."),
        (Shop(), "Shop", ["item"], "Sells an item."),
        (Kiosk(), "Kiosk", ["item"], "A shop in the street."),
        (functools.partial(weather, 7), "weather", ["city", "unit"], "Tells the weather."),
        (functools.partial(weather, user=7), "weather", ["city", "unit"], "Tells the weather."),
        (functools.wraps(weather)(lambda *args, **named: weather(*args, **named)), "weather", ["user", "city", "unit"],
         "Tells the weather."),
    ],
    ids=["method", "class method", "object", "object of a class", "partial", "partial by keyword", "wrapped"],
)  # fmt: skip
def test_whatever_can_be_called_is_a_function(
    function: Callable[..., Any], name: str, arguments: list[str], description: str
) -> None:
    """What is bound is not shown to the model."""
    read = function_of(function)
    assert (name_of(function), list(read.parameters["properties"]), read.description) == (name, arguments, description)


def test_pydantic_fields_count() -> None:
    """Bounds in `Annotated` by pydantic are in the schema, and checked."""

    def wait(
        seconds: Annotated[int, pydantic.Field(ge=1, le=9)], hours: Annotated[int, msgspec.Meta(ge=1)]
    ) -> None: ...

    function = function_of(wait)
    assert function.parameters["properties"]["seconds"] == {"type": "integer", "minimum": 1, "maximum": 9}
    assert function.parameters["properties"]["hours"] == {"type": "integer", "minimum": 1}
    with pytest.raises(ValueError, match="'seconds' is refused"):
        function.read({"seconds": 10, "hours": 1})


class Strict(pydantic.BaseModel):
    """Takes a value of another type for none of its own."""

    model_config = pydantic.ConfigDict(strict=True)
    unit: Unit
    day: datetime.date
    pair: tuple[int, str]


class Files(pydantic.BaseModel):
    path: Path
    data: bytes
    secret: pydantic.SecretStr
    kinds: set[str]


def test_values_that_have_a_form_in_json_alone_are_read_from_it() -> None:
    """Strict models of pydantic's take an enum's value, a date, and a list as a tuple from JSON."""

    def book(what: Strict) -> None: ...

    given = {"what": {"unit": "kelvin", "day": "2026-11-28", "pair": [1, "a"]}}
    read = function_of(book).read(given)
    assert read == {"what": Strict(unit=Unit.KELVIN, day=datetime.date(2026, 11, 28), pair=(1, "a"))}


def test_what_no_grammar_holds_is_left_to_the_type() -> None:
    """Bytes, decimals, paths, sets: the schema is one that grammars take, and the argument has its type."""

    def keep(data: bytes, price: decimal.Decimal, more: list[bytes], files: Files | None = None) -> None: ...

    (tool,) = tools_of([keep])
    assert json.loads(offered(tool).schema)["properties"].keys() == {"data", "price", "more", "files"}
    given = {"path": "a/b", "data": "x", "secret": "s", "kinds": ["c", "c"]}
    read = function_of(keep).read({"data": "AAE=", "price": "1.50", "more": ["AA=="], "files": given})
    assert read == {
        "data": b"\0\1", "price": decimal.Decimal("1.50"), "more": [b"\0"],
        "files": Files(path=Path("a/b"), data=b"x", secret=pydantic.SecretStr("s"), kinds={"c"}),
    }  # fmt: skip
    with pytest.raises(ValueError, match="'data' is refused"):
        function_of(keep).read({"data": "A", "price": "1", "more": []})


def unhinted(city) -> None: ...  # type: ignore[no-untyped-def]  # on purpose


def many(*cities: str) -> None: ...


def named(**cities: str) -> None: ...


def positional(city: str, /) -> None: ...


def numbers() -> Iterator[int]:
    yield 1


def unknown(city: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # on purpose


def opaque(city: Callable[[], None]) -> None: ...


def twice(city: Annotated[str, object()], *, text: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (unhinted, "its argument 'city' has no type hint"),
        (many, r"it takes \*cities; a tool's arguments have names of their own"),
        (named, r"it takes \*\*cities"),
        (positional, "its argument 'city' is positional-only"),
        (numbers, "it is a generator"),
        (unknown, "its type hints cannot be read: NameError: name 'Nowhere'"),
        (opaque, "its argument 'city': .* has no JSON schema"),
        (Shop, "it is a class"),
        (dict, "it is a class"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_reason(function: Callable[..., Any], problem: str) -> None:
    """Each reason in words."""
    with pytest.raises(ValueError, match=problem):
        function_of(function)


def test_what_is_annotated_with_other_things_is_fine() -> None:
    """Only texts say something."""
    assert function_of(twice).parameters["properties"]["city"] == {"type": "string"}


def test_a_lambda_has_no_name() -> None:
    """So that the door can refuse it."""
    assert name_of(lambda: None) == "<lambda>"


GOOGLE = """Does it.

With care.

Args:
    first (int): the first
        of them
    second: the second: last

Raises:
    ValueError: never
"""
NUMPY = """Does it.

With care.

Parameters
----------
first : int
    the first
    of them
second
    the second: last

Returns
-------
int
    a number
"""
SPHINX = """Does it.

With care.

:param int first: the first
    of them
:param second: the second: last
:type second: str
:returns: a number
"""


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_docstrings_of_three_styles_say_the_same(docstring: str) -> None:
    """The text before the sections, and that of each argument."""
    assert read_docstring(docstring) == (
        "Does it.\n\nWith care.", {"first": "the first of them", "second": "the second: last"},
    )  # fmt: skip


def test_numpy_arguments_may_share_a_text() -> None:
    """`x, y : int` names two."""
    said = read_docstring("Adds.\n\nParameters\n----------\nx, y : int\n    a number\n")
    assert said == ("Adds.", {"x": "a number", "y": "a number"})


@given(st.text(alphabet=" \n-:abcArgs\t", max_size=200) | st.text())
def test_any_docstring_can_be_read(docstring: str) -> None:
    """No text is too strange."""
    description, arguments = read_docstring(docstring)
    assert len(description) <= len(docstring.expandtabs())
    assert all(arguments.values())
