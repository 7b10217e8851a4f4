"""The tools of the judge's conversations: ten functions whose results are the same each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass
class Person:
    """Somebody who is invited."""

    name: str
    email: str


@dataclass
class Line:
    """One line of an order."""

    product: str
    quantity: int


def get_weather(city: Annotated[str, "The name of the city"], unit: Literal["celsius", "fahrenheit"]) -> dict[str, Any]:
    """Get the current weather of a city."""
    return {"city": city, "temperature": 21 if unit == "celsius" else 70, "unit": unit, "sky": "clear"}


def add_numbers(a: Annotated[int, "The first number"], b: Annotated[int, "The second number"]) -> int:
    """Add two whole numbers."""
    return a + b


def multiply_numbers(a: Annotated[int, "The first number"], b: Annotated[int, "The second number"]) -> int:
    """Multiply two whole numbers."""
    return a * b


def get_time(city: Annotated[str, "The name of the city"]) -> str:
    """Get the current local time of a city."""
    return f"It is 14:30 in {city}."


def translate(text: Annotated[str, "The text to translate"], language: Literal["french", "german", "spanish"]) -> str:
    """Translate an English text into another language."""
    return {"french": "bonjour", "german": "guten Tag", "spanish": "buenos días"}[language]


def send_email(
    to: Annotated[str, "The address of the recipient"],
    subject: Annotated[str, "The subject line"],
    body: Annotated[str, "The text of the email"],
) -> dict[str, Any]:
    """Send an email."""
    return {"sent": True, "to": to}


def create_event(
    title: Annotated[str, "The title of the event"],
    date: Annotated[str, "The date, as YYYY-MM-DD"],
    guests: Annotated[list[Person], "The people who are invited"],
) -> dict[str, Any]:
    """Create an event in the calendar and invite people to it."""
    return {"created": title, "date": date, "guests": len(guests)}


def place_order(lines: Annotated[list[Line], "The products and how many of each"]) -> dict[str, Any]:
    """Order products from the shop."""
    return {"order": 1041, "items": sum(line.quantity for line in lines)}


def convert_currency(
    amount: Annotated[float, "The amount of money"],
    source: Literal["EUR", "USD", "GBP"],
    target: Literal["EUR", "USD", "GBP"],
) -> dict[str, Any]:
    """Convert an amount of money from one currency to another."""
    return {"amount": round(amount * 1.25, 2), "currency": target}


def set_light(room: Literal["kitchen", "bedroom", "office"], on: Annotated[bool, "Whether the light is on"]) -> str:
    """Switch the light of a room on or off."""
    return f"The light in the {room} is {'on' if on else 'off'}."


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        get_weather, add_numbers, multiply_numbers, get_time, translate, send_email, create_event, place_order,
        convert_currency, set_light,
    )
}  # fmt: skip
