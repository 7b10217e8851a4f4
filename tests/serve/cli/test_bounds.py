"""Numbers of the command line: it takes what the library's own option takes, and refuses the rest by its own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.options.request import parse_request_options
from erllama_py.serve.cli import main
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.model_options import context_options, model_from, reply_options
from erllama_py.serve.cli.serve import settle
from erllama_py.serve.config import Config, sized

NUMBERS = (-2, -1, 0, 1, 2, 255, 256, 512, 513, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32)
FRACTIONS = (-0.1, 0.0, 2.5, 1e39, float("inf"), float("nan"))
MODEL = Path("/m/a.gguf")


def served(**given: int) -> Config:
    """What `serve` makes of a number for all of its models."""
    layers = given.pop("gpu_layers", None)
    return settle(
        Config(models=(model_from(MODEL),)), [], aliases=(), host=None, port=None, cache=None,
        context_opts=context_options(**given), gpu_layers=layers,
    )  # fmt: skip


def of_context(**options: int) -> None:
    """What the library says of them; 8,192 tokens a batch hold as many sequences as there can be."""
    erllama.parse_options({"model_path": "/m/a.gguf", "context_opts": options}, erllama.ModelConfig)


def of_weights(**options: int) -> None:
    erllama.parse_options({"model_path": "/m/a.gguf", "model_opts": options}, erllama.ModelConfig)


def of_request(**options: float) -> None:
    parse_request_options(options)


@pytest.mark.parametrize(
    ("option", "values", "commands", "library", "name"),
    [
        ("context", NUMBERS, [lambda **given: model_from(MODEL, **given), served], of_context, "n_ctx"),
        ("sequences", NUMBERS, [lambda **given: model_from(MODEL, **given), served], of_context, "n_seq_max"),
        ("threads", NUMBERS, [lambda **given: model_from(MODEL, **given), served], of_context, "n_threads"),
        ("gpu_layers", NUMBERS, [lambda **given: model_from(MODEL, **given), served], of_weights, "n_gpu_layers"),
        ("tokens", NUMBERS, [reply_options], of_request, "response_tokens"),
        ("seed", NUMBERS, [reply_options], of_request, "seed"),
        ("temperature", FRACTIONS, [reply_options], of_request, "temperature"),
    ],
)
def test_bounds_are_those_of_the_library(
    option: str, values: tuple[Any, ...], commands: list[Callable[..., Any]], library: Callable[..., Any], name: str
) -> None:
    """None is refused that it takes, none goes on that it refuses; the error has the command line's name."""
    taken = []
    for value in values:
        problem = None
        try:
            library(**{name: value})
            taken.append(value)
        except erllama.InvalidOption as error:
            problem = error.problem
        for command in commands:
            if problem is None:
                command(**{option: value})
                continue
            with pytest.raises(UsageError) as refusal:
                command(**{option: value})
            assert str(refusal.value) == f"--{option.replace('_', '-')}: {problem}"
    assert taken


def test_options_of_a_request_are_checked_as_a_request_checks_them() -> None:
    """Also by `parse_options`: what they must agree in, and what other libraries write."""
    assert erllama.parse_options({"seed": -1, "stop_sequences": "x"}, erllama.RequestOptions).stop_sequences == ("x",)
    with pytest.raises(erllama.InvalidOption, match="at temperature 0"):
        erllama.parse_options({"n": 2, "temperature": 0.0}, erllama.RequestOptions)


@pytest.mark.slow
def test_a_context_of_0_is_that_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the library."""
    path = str(tiny_gguf("dense", tmp_path))
    assert main(["complete", path, "Once", "--context", "0", "--tokens", "2", "--seed", "-1", "--threads", "1"]) == 0
    capsys.readouterr()
    (one,) = sized(Config(models=(model_from(Path(path), context=0),)))
    assert one.model.options["context_opts"]["n_ctx"] == 4096
