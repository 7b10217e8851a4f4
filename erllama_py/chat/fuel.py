"""What a chat template may still spend: a template is a foreign program, and everything it does costs fuel.

A unit is about 0.2 µs of work, or 32 characters copied. Costs are taken before the work is done and before memory is
allocated, so time and memory of a rendering are bounded by its fuel, whatever the template does. How much there is
grows with what is rendered (`fuel_for`): real templates use a small part of it.

The fuel of the rendering under way is the thread's own (`burning`), since Jinja calls filters without a context.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Set, Sized, ValuesView
from contextlib import contextmanager
from itertools import chain
from typing import Any

from jinja2.utils import Namespace

from erllama_py.errors import ChatTemplateError

BASE = 60_000  # units without any input: some 20 ms
PER_VALUE = 300  # of each message, tool, field and item: templates look at each of them many times
PER_PAIR = 4  # of two messages: some templates look at all earlier ones for each
PER_CHARACTER = 4  # of texts, which are trimmed, split and joined some times
PER_SOURCE = 4  # characters of a template's source that count as one of the input
A_CONTAINER = 3  # for what is not a text: values in each other are the slowest to read
CHARACTERS = 32  # copied for one unit
MOST_TEXT = 1_000_000  # characters of one text that a template makes without any input
TEXT_GROWTH = 4  # times the characters of the input, on top of that
DEEPEST = 100  # values in each other; real JSON schemas nest less
# Calls of macros, blocks and recursive loops in each other: one for each of such values, and some more. Python's own
# limit is no bound where an application has raised it: the stack would end before.
DEEPEST_CALLS = 120


class Fuel:
    """What is `left`, and how long a text may get."""

    __slots__ = ("calls", "known", "left", "longest")

    def __init__(self, units: int, longest: int, known: Mapping[int, int] | None = None) -> None:
        self.left, self.longest, self.calls = units, longest, 0
        self.known = known or {}  # what it costs to read each container of the input whole, by its id

    def use(self, units: int) -> None:
        """Take units, or end the rendering."""
        self.left -= units
        if self.left < 0:
            raise ChatTemplateError("the chat template does far more work than the conversation needs")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A part of the template is called, maybe by itself."""
        if self.calls == DEEPEST_CALLS:
            raise ChatTemplateError(f"the chat template calls itself more than {DEEPEST_CALLS} times deep")
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1

    def text(self, characters: int) -> None:
        """A text of so many characters is to be made."""
        if characters > self.longest:
            raise ChatTemplateError(f"the chat template makes a text of more than {self.longest} characters")
        self.use(1 + characters // CHARACTERS)

    def deep(self, value: object, times: int = 1) -> None:
        """All of a value is to be read, such as for its text or to compare it; values can be in it many times."""
        open_ = [iter((value,))]  # values whose inside is being read, the outermost first
        while open_:
            for one in open_[-1]:
                if isinstance(one, str):
                    self.use((1 + len(one) // CHARACTERS) * times)
                    continue
                if (whole := self.known.get(id(one))) is not None:
                    self.use(times * whole)
                    continue
                self.use(times * (1 + len(one) // 8 if isinstance(one, range) else A_CONTAINER))
                inside = _inside(one)
                if inside:
                    if len(open_) > DEEPEST:
                        raise ChatTemplateError(f"the chat template nests values more than {DEEPEST} deep")
                    open_.append(iter(inside))
                    break
            else:
                open_.pop()

    def steps(self, values: Iterable[Any]) -> Iterable[Any]:
        """The same values, each paid for: at once where they can be counted, else as they come."""
        if not isinstance(values, Sized):
            return self._paid(iter(values))
        self.use(1 + len(values) // 8)
        return values

    def _paid(self, values: Iterator[Any]) -> Generator[Any, None, None]:
        for value in values:
            self.use(1)
            yield value


class _Burning(threading.local):
    fuel = Fuel(0, 0)


_burning = _Burning()


def fuel() -> Fuel:
    """That of the rendering under way on this thread."""
    return _burning.fuel


def pay(units: int) -> None:
    """Take units from the rendering under way. Written out here and below, since it is what templates do most."""
    burning = _burning.fuel
    burning.left -= units
    if burning.left < 0:
        burning.use(0)


def pay_text(characters: int) -> None:
    """As `Fuel.text`, from the rendering under way."""
    burning = _burning.fuel
    burning.left -= 1 + (characters >> 5)
    if burning.left < 0 or characters > burning.longest:
        burning.text(characters)


@contextmanager
def burning(one: Fuel) -> Iterator[None]:
    """Render with this fuel."""
    before, _burning.fuel = _burning.fuel, one
    try:
        yield
    finally:
        _burning.fuel = before


def fuel_for(values: int, characters: int, messages: int = 0, known: Mapping[int, int] | None = None) -> Fuel:
    """Enough for any real template over inputs of so many values, with texts of so many characters in total."""
    units = BASE + PER_VALUE * values + PER_CHARACTER * characters + PER_PAIR * messages**2
    return Fuel(units, MOST_TEXT + TEXT_GROWTH * characters, known)


def _inside(value: object) -> Iterable[Any] | None:
    """What a value shows of itself in its text."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Mapping):
        return chain(value.keys(), value.values())
    if isinstance(value, Namespace):
        return chain(*value._Namespace__attrs.items())
    return value if isinstance(value, Set | ValuesView) else None
