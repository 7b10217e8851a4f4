"""The library's own check of options, for those who take options from elsewhere: a file, a form, another struct."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import msgspec

from erllama_py.errors import InvalidOption
from erllama_py.options.check import convert, under
from erllama_py.options.model import ModelConfig, parse_model_config
from erllama_py.options.policy import PolicyOpts, parse_policy
from erllama_py.options.request import RequestOptions, parse_request_options
from erllama_py.options.runtime import PressureOpts, parse_pressure
from erllama_py.options.tiers import TierSpec, parse_tier

S = TypeVar("S", bound=msgspec.Struct)

# Those whose options depend on each other; the last two name what they are in their errors.
_PARSERS: dict[type[msgspec.Struct], Callable[[object], Any]] = {
    ModelConfig: parse_model_config, TierSpec: parse_tier, RequestOptions: parse_request_options,
}  # fmt: skip
_NAMED: dict[type[msgspec.Struct], tuple[str, Callable[[object], Any]]] = {
    PolicyOpts: ("policy", parse_policy),
    PressureOpts: ("pressure", parse_pressure),
}


def parse_options(options: object, kind: type[S], path: str = "") -> S:
    """Check a mapping against `kind`, a struct of options of this library or a msgspec struct of your own.

    Types, bounds and names are checked, and for the library's own also what options must agree in; defaults are filled
    in. Raises `InvalidOption`, whose `option` is the place below `path`, and whose `nearest` is the known name that is
    closest to an unknown one.
    """
    with under(path) if path else nullcontext():
        if not isinstance(options, kind | Mapping):
            raise InvalidOption("options", f"expected a mapping, got {type(options).__name__}")
        parsed: S
        if kind in _PARSERS:
            parsed = _PARSERS[kind](options)
        elif kind in _NAMED:
            parsed = _without(*_NAMED[kind], options)
        else:
            parsed = convert(options, kind)
        return parsed


def _without(name: str, parse: Callable[[object], Any], options: object) -> Any:
    """What `parse` makes of options; its errors without the `name` before theirs, which a caller's path takes the place
    of."""
    try:
        return parse(options)
    except InvalidOption as error:
        option = error.option.removeprefix(f"{name}.")
        nearest = error.nearest.removeprefix(f"{name}.") if error.nearest else None
        raise InvalidOption("options" if option == name else option, error.problem, nearest) from None
