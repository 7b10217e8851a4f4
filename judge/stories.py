"""Forty conversations, each with the calls that a good model makes.

What is not settled by the question, such as the words of an email, is `ANY`. A turn without `calls` needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ANY: Any = ...
Calls = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Turn:
    """What the user says, and the calls that should come of it, in any order."""

    says: str
    calls: Calls
    tool_choice: Any = "auto"


@dataclass(frozen=True)
class Story:
    """One conversation: the tools that are offered, by name, and its turns."""

    name: str
    tools: str
    turns: list[Turn]


def one(name: str, tools: str, says: str, calls: Calls, tool_choice: Any = "auto") -> Story:
    """A conversation of one turn."""
    return Story(name, tools, [Turn(says, calls, tool_choice)])


def weather(city: str, unit: str = "celsius") -> tuple[str, dict[str, Any]]:
    """A call of `get_weather`."""
    return "get_weather", {"city": city, "unit": unit}


def pair(name: str, a: int, b: int) -> tuple[str, dict[str, Any]]:
    """A call of a function of two numbers."""
    return name, {"a": a, "b": b}


SINGLE = [
    one("weather", "get_weather", "What is the weather in Paris, in celsius?", [weather("Paris")]),
    one("weather, warm", "get_weather", "How hot is it in Miami, in fahrenheit?", [weather("Miami", "fahrenheit")]),
    one("sum", "add_numbers", "Use the tool to add 512 and 1024.", [pair("add_numbers", 512, 1024)]),
    one("product", "multiply_numbers", "Use the tool to multiply 17 by 23.", [pair("multiply_numbers", 17, 23)]),
    one("time", "get_time", "What time is it in Tokyo now?", [("get_time", {"city": "Tokyo"})]),
    one("light on", "set_light", "Switch on the light in the kitchen.",
        [("set_light", {"room": "kitchen", "on": True})]),
    one("light off", "set_light", "Turn off the office light.", [("set_light", {"room": "office", "on": False})]),
    one("french", "translate", "Translate 'good morning' into French.",
        [("translate", {"text": "good morning", "language": "french"})]),
    one("german", "translate", "Translate the text 'hello' into German.",
        [("translate", {"text": "hello", "language": "german"})]),
    one("money", "convert_currency", "Convert 100 EUR to USD.",
        [("convert_currency", {"amount": 100, "source": "EUR", "target": "USD"})]),
]  # fmt: skip
CHOSEN = [
    one("sum, not product", "add_numbers multiply_numbers", "Use a tool: what is 40 plus 2?",
        [pair("add_numbers", 40, 2)]),
    one("product, not sum", "add_numbers multiply_numbers", "Use a tool: multiply 12 by 11.",
        [pair("multiply_numbers", 12, 11)]),
    one("time, not weather", "get_weather get_time", "What time is it in Berlin?", [("get_time", {"city": "Berlin"})]),
    one("weather, not time", "get_weather get_time", "What is the weather in Oslo, in celsius?", [weather("Oslo")]),
    one("light of three", "get_time set_light translate", "Turn on the light in the bedroom.",
        [("set_light", {"room": "bedroom", "on": True})]),
    one("spanish of three", "convert_currency translate get_time", "Translate 'thank you' into Spanish.",
        [("translate", {"text": "thank you", "language": "spanish"})]),
    one("money of three", "convert_currency add_numbers get_weather", "How much is 20 GBP in EUR?",
        [("convert_currency", {"amount": 20, "source": "GBP", "target": "EUR"})]),
    one("email", "send_email get_time",
        "Send an email to ann@example.com with the subject 'Lunch' that says we meet at noon.",
        [("send_email", {"to": "ann@example.com", "subject": "Lunch", "body": ANY})]),
]  # fmt: skip
PARALLEL = [
    one("two cities", "get_weather", "What is the weather in Rome and in Madrid, in celsius?",
        [weather("Rome"), weather("Madrid")]),
    one("two times", "get_time", "What time is it in London and in New York?",
        [("get_time", {"city": "London"}), ("get_time", {"city": "New York"})]),
    one("two lights", "set_light", "Switch on the lights in the kitchen and in the office.",
        [("set_light", {"room": "kitchen", "on": True}), ("set_light", {"room": "office", "on": True})]),
    one("time and weather", "get_weather get_time", "What is the time in Cairo, and the weather there in celsius?",
        [("get_time", {"city": "Cairo"}), weather("Cairo")]),
    one("two languages", "translate", "Translate 'good night' into French and into German.",
        [("translate", {"text": "good night", "language": one}) for one in ("french", "german")]),
]  # fmt: skip
NESTED = [
    one("order", "place_order", "Order 3 apples.", [("place_order", {"lines": [{"product": ANY, "quantity": 3}]})]),
    one("order of two", "place_order", "Place one order of 2 notebooks and 5 pencils.",
        [("place_order", {"lines": [{"product": ANY, "quantity": 2}, {"product": ANY, "quantity": 5}]})]),
    one("event", "create_event",
        "Create the event 'Review' on 2026-12-01 and invite Bob, whose email is bob@example.com.",
        [("create_event", {"title": "Review", "date": "2026-12-01",
                           "guests": [{"name": "Bob", "email": "bob@example.com"}]})]),
    one("event, no guests", "create_event", "Create the event 'Holiday' on 2026-12-24. Nobody is invited.",
        [("create_event", {"title": "Holiday", "date": "2026-12-24", "guests": []})]),
]  # fmt: skip
NONE = [
    one("greeting", "get_weather add_numbers", "Hello! Just say hello back.", []),
    one("thanks", "send_email", "Thank you, that is all. Goodbye.", []),
    one("fact", "set_light", "Which colour has the sky on a clear day? Answer in one word.", []),
    one("forbidden", "get_weather", "What is the weather in Paris, in celsius?", [], "none"),
]
FORCED = [
    one("required", "get_time", "Paris.", [("get_time", {"city": "Paris"})], "required"),
    one("required of two", "get_time set_light", "The light in the kitchen, on please.",
        [("set_light", {"room": "kitchen", "on": True})], "required"),
    one("named", "add_numbers multiply_numbers", "Take 6 and 7.", [pair("multiply_numbers", 6, 7)],
        {"name": "multiply_numbers"}),
    one("named, of three", "get_weather get_time translate", "Lima", [("get_time", {"city": "Lima"})],
        {"name": "get_time"}),
]  # fmt: skip
LONG = [
    Story("two sums", "add_numbers", [
        Turn("Use the tool to add 1 and 2.", [pair("add_numbers", 1, 2)]),
        Turn("Now use it to add 10 and 20.", [pair("add_numbers", 10, 20)]),
    ]),
    Story("two places", "get_weather get_time", [
        Turn("What is the weather in Vienna, in celsius?", [weather("Vienna")]),
        Turn("And what time is it in Vienna?", [("get_time", {"city": "Vienna"})]),
    ]),
    Story("lights", "set_light get_time", [
        Turn("Switch on the light in the office.", [("set_light", {"room": "office", "on": True})]),
        Turn("Switch it off again, in the office.", [("set_light", {"room": "office", "on": False})]),
        Turn("Thank you! Say goodbye.", []),
    ]),
    Story("money and mail", "convert_currency send_email", [
        Turn("Convert 80 USD to EUR.", [("convert_currency", {"amount": 80, "source": "USD", "target": "EUR"})]),
        Turn("Send an email to tom@example.com with the subject 'Money' that tells him the amount.",
             [("send_email", {"to": "tom@example.com", "subject": "Money", "body": ANY})]),
    ]),
    Story("three rounds", "multiply_numbers add_numbers", [
        Turn("Use a tool to multiply 3 by 4.", [pair("multiply_numbers", 3, 4)]),
        Turn("Use a tool to add 100 to 12.", [pair("add_numbers", 100, 12)]),
        Turn("Use a tool to multiply 5 by 5.", [pair("multiply_numbers", 5, 5)]),
    ]),
]  # fmt: skip
STORIES = [*SINGLE, *CHOSEN, *PARALLEL, *NESTED, *NONE, *FORCED, *LONG]
