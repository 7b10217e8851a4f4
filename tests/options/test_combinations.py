"""Options of a request beside each other."""

from __future__ import annotations

from typing import Any

import pytest

from erllama_py.errors import InvalidOption
from erllama_py.options.combinations import OFF
from erllama_py.options.request import parse_request_options
from erllama_py.options.sampling import SAMPLERS, Sampling

LIKELIEST = "at temperature 0.0 the likeliest token is always taken"
TWO = "a reply follows one structure, and {!r} is given too"
SENSELESS: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 0.0, "mirostat": 1}, "mirostat", LIKELIEST),
    ({"temperature": 0.0, "mirostat": 2}, "mirostat", LIKELIEST),
    ({"temperature": 0.0, "adaptive_p": 0.5}, "adaptive_p", LIKELIEST),
    ({"temperature": 0, "xtc_probability": 0.5}, "xtc_probability", LIKELIEST),
    ({"temperature": 0.0, "dynatemp_range": 0.1}, "dynatemp_range", LIKELIEST),
    ({"temperature": 0.5, "dynatemp_range": 0.6}, "dynatemp_range", "it reaches below 0.0 from a temperature of 0.5"),
    ({"mirostat": 2, "adaptive_p": 0.5}, "adaptive_p", "Mirostat chooses the token: use one of the two"),
    ({"mirostat": 1, "xtc_probability": 0.5}, "xtc_probability", "Mirostat takes the place of this sampler"),
    ({"xtc_probability": 0.1, "xtc_threshold": 0.51}, "xtc_threshold",
     "no two tokens can both be likelier than 0.5: nothing would ever be dropped"),
    ({"min_tokens": 6, "response_tokens": 5}, "min_tokens", "it is more than response_tokens=5"),
    ({"ignore_eos": True, "grammar": "root ::= [a]"}, "ignore_eos", "the structure of the reply says where it ends"),
    ({"min_tokens": 1, "grammar": "root ::= [a]"}, "min_tokens", "the structure of the reply says where it ends"),
    ({"ignore_eos": True, "json_schema": {}}, "ignore_eos", "the structure of the reply says where it ends"),
    ({"min_tokens": 1, "choice": ["a"]}, "min_tokens", "the structure of the reply says where it ends"),
    ({"min_tokens": 1, "regex": "a*"}, "min_tokens", "the structure of the reply says where it ends"),
    ({"json_schema": {}, "grammar": "root ::= [a]"}, "grammar", TWO.format("json_schema")),
    ({"json_schema": int, "regex": "a"}, "regex", TWO.format("json_schema")),
    ({"regex": "a", "choice": ["a"]}, "choice", TWO.format("regex")),
    ({"choice": ["a"], "grammar": "root ::= [a]"}, "grammar", TWO.format("choice")),
    ({"thinking_markers": False, "thinking_budget_tokens": 5}, "thinking_budget_tokens",
     "thinking_markers=False: what is not told apart is not counted"),
    ({"thinking_markers": ["<a>", "</a>"], "thinking_budget_message": "so </a>"}, "thinking_budget_message",
     "it holds what closes the block, which follows it"),
    ({"samplers": ["top_k", "min_p", "top_k"]}, "samplers", "'top_k' is there more than once"),
    *(({"samplers": [name for name in SAMPLERS if name != missing], option: value}, option,
       f"it needs {missing!r} among the `samplers`") for missing, option, value in [
        ("penalties", "repetition_penalty", 1.1), ("penalties", "frequency_penalty", -0.1),
        ("penalties", "presence_penalty", 1.0), ("dry", "dry_multiplier", 0.8), ("top_n_sigma", "top_n_sigma", 1.0),
        ("top_k", "top_k", 20), ("typical_p", "typical_p", 0.9), ("top_p", "top_p", 0.9), ("min_p", "min_p", 0.1),
        ("xtc", "xtc_probability", 0.5), ("temperature", "temperature", 0.7), ("temperature", "dynatemp_range", 0.5),
    ]),
]  # fmt: skip
SENSIBLE: list[dict[str, Any]] = [
    {"temperature": 0.0, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9, "seed": 1},
    {"temperature": 0.0, "repetition_penalty": 1.1, "dry_multiplier": 0.8, "logit_bias": {1: 2.0}},
    {"temperature": 0.5, "dynatemp_range": 0.5},
    {"mirostat": 2, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1},
    {"mirostat": 0, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "xtc_threshold": 0.6, "dry_base": 2.0},
    {"adaptive_p": 0.5, "top_k": 0, "top_p": 1.0},
    {"min_tokens": 5, "response_tokens": 5, "ignore_eos": True},  # what benchmarks of servers send
    {"min_tokens": 5},
    {"ignore_eos": True},
    {"samplers": [], "temperature": 0.0},
    {"samplers": ["temperature"], "top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 0.7},
    {"samplers": ["min_p", "temperature"], "repetition_penalty": 1.0, "dry_multiplier": 0.0},
    {"repetition_penalty": 1.1, "penalty_last_n": 0},
]


@pytest.mark.parametrize(
    ("given", "option", "problem"), SENSELESS, ids=[f"{row[1]}-{n}" for n, row in enumerate(SENSELESS)]
)
def test_what_makes_no_sense_together_is_refused_with_the_reason(
    given: dict[str, Any], option: str, problem: str
) -> None:
    """Before the model hears of the request."""
    with pytest.raises(InvalidOption) as caught:
        parse_request_options(given)
    assert (caught.value.option, caught.value.problem) == (option, problem)


@pytest.mark.parametrize("given", SENSIBLE, ids=str)
def test_what_clients_send_is_let_in(given: dict[str, Any]) -> None:
    """Presets name options that do nothing beside the others."""
    parse_request_options(given)


@pytest.mark.parametrize("given", [row[0] for row in SENSELESS], ids=str)
def test_each_of_them_alone_is_let_in(given: dict[str, Any]) -> None:
    """It is the combination that is wrong, not the value; but for a sampler named twice."""
    if "samplers" not in given:
        for name, value in given.items():
            parse_request_options({name: value})


def test_every_sampler_is_known_to_the_check() -> None:
    """One that is added to the table of samplers is added here, with options that there are."""
    assert tuple(OFF) == SAMPLERS
    assert {option for options in OFF.values() for option in options} < set(Sampling.__struct_fields__)
