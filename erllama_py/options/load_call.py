"""What `load_model` is called with, as an id and a configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from erllama_py.errors import InvalidOption
from erllama_py.options.hub_reference import is_hub_reference
from erllama_py.options.model import ModelConfig, check_name
from erllama_py.options.policy import NOT_GIVEN

_EXAMPLE = 'load_model("model.gguf"), load_model({"model_path": …}), or an id before either'


def load_call(model_id: object, config: object, given: Mapping[str, object]) -> tuple[str | None, object]:
    """The id, None where one is to be made, and the configuration with what is `given` by keyword.

    The path of a GGUF file may stand for a configuration that has no more than that; a str alone is one where it ends
    in `.gguf`, or begins as paths do or with `hf:`, since that is no name to give a model. Raises `InvalidOption`.
    """
    if model_id is not None and config is not None:
        _check_order(model_id, config)
    named = config is not None or (isinstance(model_id, str) and not _is_file(model_id) and bool(given))
    chosen = check_name(model_id) if named and model_id is not None else None
    options = config if named else model_id
    if isinstance(options, str) and not named and not _is_file(options):
        raise InvalidOption("config", f"{options[:80]!r} alone is an id: give the file too, as in {_EXAMPLE}")
    if options is None and not given:
        raise InvalidOption("config", f"a file or a configuration is needed, as in {_EXAMPLE}")
    return chosen, _with(options, given)


def _is_file(text: str) -> bool:
    return text.lower().endswith(".gguf") or text.startswith(("/", "./", "../", "~")) or is_hub_reference(text)


def _check_order(model_id: object, config: object) -> None:
    """Refuse an id behind its configuration."""
    options_first = isinstance(model_id, Mapping | ModelConfig | os.PathLike) and isinstance(config, str)
    both = isinstance(model_id, str) and isinstance(config, str)
    if options_first or (both and _is_file(str(model_id)) and not re.search(r"\.gguf$|[/\\]", str(config), re.I)):
        raise InvalidOption("config", f"{str(config)[:80]!r} stands behind it as an id, which goes first: {_EXAMPLE}")


def _with(options: object, given: Mapping[str, object]) -> object:
    """One configuration of what stands first and of the keywords."""
    if isinstance(options, str | os.PathLike):
        options = {"model_path": options}
    if not given:
        return options
    if isinstance(options, ModelConfig):
        kept = {name: getattr(options, name) for name in options.__struct_fields__}
        return {**{name: value for name, value in kept.items() if value is not NOT_GIVEN}, **given}
    if options is not None and not isinstance(options, Mapping):
        return options  # the check of the configuration says what is wrong with it
    mine: dict[Any, Any] = dict(options or {})
    if twice := sorted(mine.keys() & given.keys()):
        raise InvalidOption(twice[0], "it is given twice: in the configuration and by keyword")
    return {**mine, **given}
