"""The names of options, and what an unknown one was meant to be: one of ours under another library's name, one that is
given elsewhere, something that is said in another way, or a slip. The errors say which."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeGuard, TypeVar, cast, get_args, get_origin

import msgspec

from erllama_py.errors import InvalidOption
from erllama_py.options.elsewhere import ELSEWHERE, INSTEAD, MOST_NAME, plain_name

S = TypeVar("S", bound=msgspec.Struct)
P = ParamSpec("P")
R = TypeVar("R")

UNKNOWN = "there is no such option"
_UNITS = ("bytes", "seconds", "tokens")  # that a name is often written without
_PLACES: dict[str, type[msgspec.Struct]] = {}  # where the options of a struct are given, in words: filled by `given_at`


@cache  # reading type hints is slow
def types_of(section: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each option of a section, by name."""
    return {field.name: field.type for field in msgspec.structs.fields(section)}


def section_of_each(type_: Any) -> type[msgspec.Struct] | None:
    """The struct of which an option takes a list; None for other types."""
    items = get_args(type_)
    listed = get_origin(type_) in (tuple, list) and bool(items)
    return items[0] if listed and is_section(items[0]) else None


def is_section(type_: Any) -> TypeGuard[type[msgspec.Struct]]:
    """Whether an option is a struct of options itself."""
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def option_names(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """Every option below `kind`, dotted."""
    for name, type_ in types_of(kind).items():
        yield prefix + name
        if is_section(type_):
            yield from option_names(type_, f"{prefix}{name}.")


def nearest_name(name: str, path: str, names: Sequence[str]) -> str | None:
    """The one of the dotted `names` closest to `name`: this one with its unit here, the same name elsewhere, one that
    other libraries call so, a close one here, a close one elsewhere.

    0.7 lets two of six letters be wrong, and keeps names apart that only share a word.
    """
    if same := _with_unit(name, path, names) or _same(name, names):
        return same
    here = [dotted for dotted in names if dotted.rpartition(".")[0] == path]
    for group in (here, names):
        by_leaf = {dotted.rpartition(".")[2]: dotted for dotted in reversed(group)}
        if close := difflib.get_close_matches(plain_name(name), by_leaf, n=1, cutoff=0.7):
            return by_leaf[close[0]]
    return None


def unknown(name: str, path: str, names: Sequence[str]) -> InvalidOption:
    """The error for a name, given below `path`, that is none of the dotted `names`: it says what to write instead."""
    shown = name if len(name) <= MOST_NAME else f"{name[:MOST_NAME]}..."
    dotted = f"{path}.{shown}" if path else shown
    if same := _with_unit(name, path, names) or _same(name, names):
        return InvalidOption(dotted, UNKNOWN, same)
    if said := INSTEAD.get(plain_name(name)) or _place(name):
        return InvalidOption(dotted, f"{UNKNOWN}; {said}")
    if nearest := nearest_name(name, path, names):
        return InvalidOption(dotted, UNKNOWN, nearest)
    here = [known.rpartition(".")[2] for known in names if known.rpartition(".")[0] == path]
    return InvalidOption(dotted, f"{UNKNOWN}; there are {', '.join(here)}")


def _with_unit(name: str, path: str, names: Sequence[str]) -> str | None:
    """This name below `path` with the unit that it lacks."""
    wanted = (".".join(filter(None, (path, f"{plain_name(name)}_{unit}"))) for unit in _UNITS)
    return next((dotted for dotted in wanted if dotted in names), None)


def _same(name: str, names: Sequence[str]) -> str | None:
    """The first of the dotted names that is this one, or that other libraries call so."""
    name = plain_name(name)
    for ours in (name, *ELSEWHERE.get(name, ())):
        for dotted in names:
            if dotted.rpartition(".")[2] == ours:
                return dotted
    return None


def _place(name: str) -> str | None:
    """Where an option of this name is given, if there is one in another place."""
    for place, kind in _PLACES.items():
        if same := _same(name, list(option_names(kind))):
            return f"{place}: {same}"
    return None


def given_at(place: str) -> Callable[[type[S]], type[S]]:
    """Marks a struct of options with where they are given, for the errors of those who look for them elsewhere."""

    def mark(kind: type[S]) -> type[S]:
        _PLACES[place] = kind
        return kind

    return mark


def checked_names(call: Callable[P, R]) -> Callable[P, R]:
    """`call`, for which an unknown keyword is an unknown option: `InvalidOption` with what to write instead."""
    known = inspect.signature(call).parameters
    names = [name for name, one in known.items() if one.kind is not one.POSITIONAL_ONLY and name != "self"]

    def check(keywords: Iterable[str]) -> None:
        for name in keywords:
            if name not in known:
                raise unknown(name, "", names)

    if inspect.iscoroutinefunction(call):

        async def waiting(*args: P.args, **keywords: P.kwargs) -> Any:
            check(keywords)
            return await call(*args, **keywords)

        return cast("Callable[P, R]", wraps(call)(waiting))

    @wraps(call)
    def calling(*args: P.args, **keywords: P.kwargs) -> R:
        check(keywords)
        return call(*args, **keywords)

    return calling


class CheckedNames(msgspec.StructMeta):
    """The class of option structs: one that is made with an unknown name says what was meant, as `convert` does."""

    if not TYPE_CHECKING:  # checkers know from the fields what a struct is made with

        def __call__(cls, *args, **given):
            """A struct of these options."""
            for name in given:
                if name not in cls.__struct_fields__:
                    raise unknown(name, "", list(option_names(cls)))
            return super().__call__(*args, **given)
