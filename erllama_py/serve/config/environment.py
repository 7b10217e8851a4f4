"""Variables of the environment that configure a server: they go before its file, its command line before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.serve.config.tables import Config
from erllama_py.serve.core.amounts import bytes_of, seconds_of


def _stay(text: str) -> str:
    seconds_of(text)
    return text


VARIABLES: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "ERLLAMA_HOST": ("host", str),
    "ERLLAMA_PORT": ("port", int),
    "ERLLAMA_KEEP_ALIVE": ("keep_alive", _stay),
    "ERLLAMA_MEMORY_BUDGET": ("memory_budget_bytes", bytes_of),
}
"""The key of `[server]` that each stands for, and how it is read. One that is empty counts as not there."""


def with_environment(config: Config, environment: Mapping[str, str]) -> Config:
    """A configuration with what the environment says before it. Raises `InvalidOption`, with the variable's name."""
    server = config.server
    for variable, (key, read) in VARIABLES.items():
        if text := environment.get(variable, "").strip():
            try:
                given = {**msgspec.structs.asdict(server), key: read(text)}
                server = erllama.parse_options(given, type(server))
            except ValueError as error:
                raise erllama.InvalidOption(variable, str(error)) from None
            except erllama.InvalidOption as error:
                raise erllama.InvalidOption(variable, error.problem) from None
    return msgspec.structs.replace(config, server=server)
