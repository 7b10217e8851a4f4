"""The door for requests, and the two small checks beside it: tiers and ids."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from helpers.runtime import stub_runtime
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.errors import InvalidOption, TierMismatch, TierNotFound
from erllama_py.handle import caller
from erllama_py.options.model import ModelConfig, check_name, parse_model_config, with_tier
from erllama_py.options.request import RequestOptions, parse_request_options
from erllama_py.options.sampling import SAMPLERS

WRONG: list[tuple[str, object, str]] = [
    ("response_tokens", 0, "expected int >= 1, got 0"),
    ("response_tokens", -1, "expected int >= 1, got -1"),
    ("response_tokens", "8", "expected int or None, got str"),
    ("response_tokens", True, "expected int or None, got bool"),
    ("response_tokens", 1 << 31, "expected int <= 2147483647, got 2147483648"),
    ("temperature", -0.1, "expected float >= 0.0, got -0.1"),
    ("temperature", math.inf, "expected a finite number of 32 bits, got inf"),
    ("temperature", math.nan, "expected float >= 0.0, got nan"),
    ("temperature", None, "expected float, got None"),
    ("top_k", -2, "expected int >= 0, got -2"),
    ("top_k", 1.5, "expected int, got float"),
    ("top_p", 0, "expected float > 0.0, got 0"),
    ("top_p", 1.01, "expected float <= 1.0, got 1.01"),
    ("min_p", 1.0, "expected float < 1.0, got 1.0"),
    ("min_p", -0.5, "expected float >= 0.0, got -0.5"),
    ("repetition_penalty", 0.0, "expected float > 0.0, got 0.0"),
    ("repetition_penalty", 1e-300, "expected a finite number of 32 bits, got 1e-300"),
    ("logit_bias", [1], "expected a mapping, got a list"),
    ("logit_bias", {"": 1.0}, "each key: expected str of length >= 1"),
    ("logit_bias", {"a" * 201: 1.0}, "each key: expected str of length <= 200"),
    ("logit_bias", {1.5: 1.0}, "each key: expected int or str, got float"),
    ("logit_bias", {True: 1.0}, "each key: expected int or str, got bool"),
    ("logit_bias", {"a\ud800": 1.0}, "the text has no UTF-8 form: it holds a lone surrogate"),
    ("logit_bias", {1: "high"}, "each value: expected float, got str"),
    ("logit_bias", {1: math.nan}, "expected -inf, or at most 10000 either way, got nan"),
    ("logit_bias", {1: math.inf}, "expected -inf, or at most 10000 either way, got inf"),
    ("logit_bias", {1: 10_001}, "expected -inf, or at most 10000 either way, got 10001.0"),
    ("logit_bias", dict.fromkeys(range(1025), 1.0), "expected a mapping of length <= 1024, got 1025"),
    ("ignore_eos", 1, "expected bool, got int"),
    ("min_tokens", -1, "expected int >= 0, got -1"),
    ("min_tokens", 1 << 31, "expected int <= 2147483647, got 2147483648"),
    ("dynatemp_range", -0.1, "expected float >= 0.0, got -0.1"),
    ("dynatemp_range", math.inf, "expected a finite number of 32 bits, got inf"),
    ("dynatemp_exponent", 0.0, "expected float > 0.0, got 0.0"),
    ("typical_p", 0.0, "expected float > 0.0, got 0.0"),
    ("typical_p", 1.01, "expected float <= 1.0, got 1.01"),
    ("top_n_sigma", -1.0, "expected float >= 0.0, got -1.0"),
    ("xtc_probability", 1.01, "expected float <= 1.0, got 1.01"),
    ("xtc_probability", -0.1, "expected float >= 0.0, got -0.1"),
    ("xtc_threshold", 1.01, "expected float <= 1.0, got 1.01"),
    ("frequency_penalty", math.nan, "expected a finite number of 32 bits, got nan"),
    ("frequency_penalty", "1", "expected float, got str"),
    ("presence_penalty", -math.inf, "expected a finite number of 32 bits, got -inf"),
    ("penalty_last_n", -2, "expected int >= -1, got -2"),
    ("dry_multiplier", -0.1, "expected float >= 0.0, got -0.1"),
    ("dry_base", 0.9, "expected float >= 1.0, got 0.9"),
    ("dry_allowed_length", -1, "expected int >= 0, got -1"),
    ("dry_penalty_last_n", -2, "expected int >= -1, got -2"),
    ("dry_sequence_breakers", "a", "expected a list, got str"),
    ("dry_sequence_breakers", [""], "expected str of length >= 1, got 0"),
    ("dry_sequence_breakers", ["a"] * 17, "expected a list of length <= 16, got 17"),
    ("dry_sequence_breakers", ["\ud800"], "the text has no UTF-8 form: it holds a lone surrogate"),
    ("dry_sequence_breakers", ["a\0"], "expected at most 40 bytes, none NUL, got 'a\\x00'"),
    ("dry_sequence_breakers", ["é" * 21], f"expected at most 40 bytes, none NUL, got {'é' * 21!r}"),
    ("mirostat", 3, "expected one of 0, 1, 2, got 3"),
    ("mirostat", True, "expected int, got bool"),
    ("mirostat_tau", 0.0, "expected float > 0.0, got 0.0"),
    ("mirostat_eta", 0.0, "expected float > 0.0, got 0.0"),
    ("mirostat_eta", 1.5, "expected float <= 1.0, got 1.5"),
    ("adaptive_p", 1.5, "expected float <= 1.0, got 1.5"),
    ("adaptive_p_decay", 1.0, "expected float <= 0.99, got 1.0"),
    ("samplers", ["top_q"], f"expected one of {', '.join(map(repr, sorted(SAMPLERS)))}, got 'top_q'"),
    ("samplers", "top_k", "expected a list, got str"),
    ("seed", -2, "expected int >= 0, got -2"),
    ("seed", 1 << 32, "expected int <= 4294967295, got 4294967296"),
    ("grammar", b"root ::= [a]", "expected str or None, got bytes"),
    ("json_schema", True, "a mapping or a type is expected, got True"),
    ("json_schema", '{"type": "object"}', 'a mapping or a type is expected, got \'{"type": "object"}\''),
    ("json_schema", [{"type": "object"}], "a mapping or a type is expected, got [{'type': 'object'}]"),
    ("regex", "", "expected str of length >= 1, got 0"),
    ("regex", re.compile("a"), "expected str or None, got re.Pattern"),
    ("regex", "\ud800", "the text has no UTF-8 form: it holds a lone surrogate"),
    ("choice", "yes", "expected a list or None, got str"),
    ("choice", [], "expected a list of length >= 1, got 0"),
    ("choice", [""], "expected str of length >= 1, got 0"),
    ("choice", ["yes", 1], "expected str, got int"),
    ("choice", {"yes", "no"}, "expected a list, got a set"),
    ("choice", ["a"] * 2001, "expected a list of length <= 2000, got 2001"),
    ("choice", ["\ud800"], "the text has no UTF-8 form: it holds a lone surrogate"),
    ("grammar", 'root ::= "\ud800"', "the text has no UTF-8 form: it holds a lone surrogate"),
    ("stop_sequences", "", "expected str of length >= 1, got 0"),
    ("stop_sequences", ["a", ""], "expected str of length >= 1, got 0"),
    ("stop_sequences", ["a", 1], "expected str, got int"),
    ("stop_sequences", None, "expected a list, got None"),
    ("stop_sequences", {"a": 1}, "expected a list, got a mapping"),
    ("stop_sequences", frozenset("ab"), "expected a list, got a set"),
    ("stop_sequences", ["a", "é\ud800"], "the text has no UTF-8 form: it holds a lone surrogate"),
    ("stop_sequences", "\udfff", "the text has no UTF-8 form: it holds a lone surrogate"),
    ("stop_sequences", ["a"] * 65, "expected a list of length <= 64, got 65"),
    ("stop_sequences", ["a" * 4097], "expected str of length <= 4096, got 4097"),
    ("stop_token_ids", 7, "expected a list, got int"),
    ("stop_token_ids", [-1], "expected int >= 0, got -1"),
    ("stop_token_ids", ["</s>"], "expected int, got str"),
    ("stop_token_ids", [True], "expected int, got bool"),
    ("stop_token_ids", {1}, "expected a list, got a set"),
    ("stop_token_ids", [1] * 257, "expected a list of length <= 256, got 257"),
    ("logprobs", -1, "expected int >= 0, got -1"),
    ("logprobs", 21, "expected int <= 20, got 21"),
    ("logprobs", True, "expected how many of the likeliest tokens, such as 5, got True"),
    ("logprobs_after", None, "expected bool, got None"),
    ("prompt_logprobs", -1, "expected int >= 0, got -1"),
    ("prompt_logprobs", 21, "expected int <= 20, got 21"),
    ("prompt_logprobs", True, "expected how many of the likeliest tokens, such as 5, got True"),
    ("n", 0, "expected int >= 1, got 0"),
    ("n", 65, "expected int <= 64, got 65"),
    ("n", None, "expected int, got None"),
    ("reproducible", 1, "expected bool, got int"),
    ("reproducible", None, "expected bool, got None"),
    ("special", 1, "expected bool, got int"),
    ("special", None, "expected bool, got None"),
    ("queue_wait", -0.1, "expected float >= 0.0, got -0.1"),
    ("queue_wait", math.nan, "expected float >= 0.0, got nan"),
    ("queue_wait", None, "expected bool or float, got None"),
    ("queue_wait", "1", "expected bool or float, got str"),
    ("parent_key", b"k" * 31, "expected 32 bytes or 64 hex digits"),
    ("parent_key", "0" * 63, "expected 32 bytes or 64 hex digits"),
    ("tool_choice", "any", "expected 'auto', 'none', 'required' or {'name': …}, got 'any'"),
    ("tool_choice", {}, "expected 'auto', 'none', 'required' or {'name': …}, got {}"),
    ("tool_choice", {"name": 1}, "expected 'auto', 'none', 'required' or {'name': …}, got {'name': 1}"),
    ("tool_choice", 7, "expected 'auto', 'none', 'required' or {'name': …}, got 7"),
    ("tool_choice", "required", "there are no `tools` to call"),
    ("tool_choice", {"name": "f"}, "there are no `tools` to call"),
    ("parallel_tool_calls", 1, "expected bool, got int"),
    ("parallel_tool_calls", False, "there are no `tools` to call"),
    ("parent_key", "g" * 64, "expected 32 bytes or 64 hex digits"),
    ("parent_key", "", "expected 32 bytes or 64 hex digits"),
    ("parent_key", 7, "expected 32 bytes or 64 hex digits"),
    ("cache_salt", "", "expected str of length >= 1, got 0"),
    ("cache_salt", "a" * 257, "expected str of length <= 256, got 257"),
    ("cache_salt", b"tenant", "expected str or None, got bytes"),
    ("cache_salt", "a\udfff", "the text has no UTF-8 form: it holds a lone surrogate"),
]


@pytest.mark.parametrize(("option", "value", "problem"), WRONG, ids=[f"{row[0]}-{n}" for n, row in enumerate(WRONG)])
def test_a_wrong_value_is_refused_with_what_was_expected(option: str, value: object, problem: str) -> None:
    """Before the model hears of the request."""
    with pytest.raises(InvalidOption) as caught:
        parse_request_options({option: value})
    assert caught.value.option == option
    assert caught.value.problem.startswith(problem)  # what to write instead may follow


@pytest.mark.parametrize(
    ("options", "option", "problem"),
    [
        ({"logprobs_after": True}, "logprobs_after", "it adds to what logprobs tells, and that is off"),
        ({"n": 2, "session_id": "mine"}, "n", "a session goes on from one reply"),
        ({"n": 2, "temperature": 0.0}, "n", "at temperature 0.0 all replies would be the same: ask for one"),
        (
            {"prompt_logprobs": 0, "reproducible": True},
            "prompt_logprobs",
            "it reads the prompt in other batches than a reproducible reply does",
        ),
        (
            {"tools": [{"name": "f"}], "tool_choice": "required", "regex": "a"},
            "tool_choice",
            "the reply is a call, and 'regex' asks for something else",
        ),
        (
            {"tools": [{"name": "f"}], "ignore_eos": True},
            "ignore_eos",
            "the structure of the reply says where it ends",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_reason(options: dict[str, Any], option: str, problem: str) -> None:
    """Before the model hears of the request; alone each of them is fine."""
    with pytest.raises(InvalidOption) as caught:
        parse_request_options(options)
    assert (caught.value.option, caught.value.problem) == (option, problem)


@pytest.mark.parametrize(
    "given",
    [{"name": "f"}, {"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}],
)
def test_a_tool_is_chosen_by_its_name(given: dict[str, Any]) -> None:
    """In either of OpenAI's forms too."""
    assert parse_request_options({"tools": [{"name": "f"}], "tool_choice": given}).tool_choice == {"name": "f"}


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    """A misspelt option is not silently left out."""
    with pytest.raises(InvalidOption) as caught:
        parse_request_options({"temprature": 1.0})
    assert (caught.value.option, caught.value.nearest) == ("temprature", "temperature")


def test_what_is_no_mapping_is_refused() -> None:
    """Also where the types were not checked before."""
    options: Any = ["temperature", 1.0]
    with pytest.raises(InvalidOption, match="expected a mapping or RequestOptions, got list"):
        parse_request_options(options)


@pytest.mark.parametrize(("given", "wait"), [(True, True), (math.inf, True), (2, 2.0), (0, 0.0), (False, False)])
def test_a_queue_is_waited_for_some_seconds_or_as_long_as_it_takes(given: float, wait: float) -> None:
    """Infinity says the same as True."""
    found = parse_request_options({"queue_wait": given}).queue_wait
    assert (found, type(found)) == (wait, type(wait))


def test_the_defaults_are_those_of_the_struct() -> None:
    """No option is needed."""
    assert parse_request_options({}) == RequestOptions()


def test_a_single_stop_sequence_may_be_a_str() -> None:
    """It is one sequence, not a sequence of characters."""
    assert parse_request_options({"stop_sequences": "END"}).stop_sequences == ("END",)
    assert parse_request_options({"stop_sequences": ["a", "b"]}).stop_sequences == ("a", "b")


@pytest.mark.parametrize("grammar", ["", "root ::= [é]", "no grammar", "a\0", "é" * 100_000])
def test_a_grammar_of_any_text_is_let_in(grammar: str) -> None:
    """Whether it is one, and not too long, is for the engine that has the parser to say: `InvalidGrammar`."""
    assert parse_request_options({"grammar": grammar}).grammar == grammar


@pytest.mark.parametrize("given_as", [b"\xab" * 32, "ab" * 32, "AB" * 32])
def test_a_parent_key_comes_out_as_bytes(given_as: bytes | str) -> None:
    """As a completion gave it, or as it was written into a text."""
    assert parse_request_options({"parent_key": given_as}).parent_key == b"\xab" * 32


def test_no_parent_and_no_salt_may_be_said_as_none() -> None:
    """The first turn of a chat has no turn before it."""
    assert parse_request_options({"parent_key": None, "cache_salt": None}) == RequestOptions()


def test_a_struct_is_checked_as_a_mapping_is() -> None:
    """Also what its type alone does not say."""
    options: Any = RequestOptions(grammar="\ud800")
    with pytest.raises(InvalidOption) as caught:
        parse_request_options(options)
    assert caught.value.option == "grammar"


def test_the_edges_of_each_range_are_allowed() -> None:
    """Zero switches a step off; an integer does for a real number."""
    options = parse_request_options(
        {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "seed": (1 << 32) - 1, "response_tokens": 1}
    )
    assert (options.temperature, options.top_p, options.min_p) == (0.0, 1.0, 0.0)


@given(st.lists(st.text() | st.text(st.characters(categories=["Cs", "Ll"])), max_size=4))
def test_stop_sequences_that_are_let_in_have_a_utf8_form(texts: list[str]) -> None:
    """What is let in can be compared with text that came from bytes."""
    try:
        stops = parse_request_options({"stop_sequences": texts}).stop_sequences
    except InvalidOption:
        assert any(not text or re.search("[\ud800-\udfff]", text) for text in texts)
        return
    assert [stop.encode().decode() for stop in stops] == texts


# --- tiers and ids -----------------------------------------------------------------------------------


def tiered(tier_srv: str, tier: str) -> ModelConfig:
    """A configuration that saves there."""
    return parse_model_config({"backend": "stub", "tier_srv": tier_srv, "tier": tier})


def test_a_tier_that_runs_and_is_of_the_kind_is_accepted() -> None:
    """The pair is held against what runs now."""
    with_tier(tiered("my_disk", "disk"), {"ram": "ram", "my_disk": "disk"})


def test_a_tier_that_does_not_run_is_not_found() -> None:
    """The error tells which ones run."""
    with pytest.raises(TierNotFound) as caught:
        with_tier(tiered("my_disk", "disk"), {"shm": "ram_file", "ram": "ram"})
    assert (caught.value.tier_srv, caught.value.running) == ("my_disk", ("ram", "shm"))


def test_a_tier_of_another_kind_is_a_mismatch() -> None:
    """Found at the load, not at the first save."""
    with pytest.raises(TierMismatch) as caught:
        with_tier(tiered("ram", "disk"), {"ram": "ram"})
    assert (caught.value.tier_srv, caught.value.asked, caught.value.running) == ("ram", "disk", "ram")


@pytest.mark.parametrize("model_id", ["tiny", "Llama 3.1 8B (Q4)", "日本語", "a" * 200, "a/..b", "...", "a..b", "/"])
def test_a_printable_name_is_an_id(model_id: str) -> None:
    """Blanks and any script are fine."""
    assert check_name(model_id) == model_id


@pytest.mark.parametrize("model_id", ["", "a" * 201, "two\nlines", "tab\t", "\x1b[31m", "\ud800", None, 7, b"tiny"])
def test_what_would_break_a_log_line_is_no_id(model_id: object) -> None:
    """Ids stand in logs, names and trees."""
    with pytest.raises(InvalidOption) as caught:
        check_name(model_id)
    assert caught.value.option == "id"


@pytest.mark.parametrize("model_id", [".", "..", "a/..", "../a", "a/./b", "a/../b"])
def test_what_a_url_takes_for_a_way_is_no_id(model_id: str) -> None:
    """Clients would ask for another path, before any server sees it."""
    with pytest.raises(InvalidOption, match="no URL could name it"):
        check_name(model_id)


@pytest.mark.anyio
async def test_every_option_is_read_on_the_way_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is checked and then forgotten would be a broken promise."""
    read: set[str] = set()

    class Watched(RequestOptions, frozen=True):
        """Notes what is read of it."""

        def __getattribute__(self, name: str) -> object:
            read.add(name)
            return super().__getattribute__(name)

    def parse(options: Mapping[str, object]) -> RequestOptions:
        return Watched(**msgspec.structs.asdict(parse_request_options(options)))

    monkeypatch.setattr(caller, "parse_request_options", parse)
    async with stub_runtime() as (_, model):
        await model.complete("hello", response_tokens=1)
        await model.chat([{"role": "user", "content": "hello"}], response_tokens=1, thinking_markers=("<a>", "<b>"))
        await model.complete("hello", response_tokens=1, tools=[{"name": "f"}])
    assert set(RequestOptions.__struct_fields__) - read == set()


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        ("response_format", "json_schema"), ("format", "json_schema"), ("guided_json", "json_schema"),
        ("guided_regex", "regex"), ("guided_choice", "choice"), ("guided_grammar", "grammar"), ("gbnf", "grammar"),
        ("top_logprobs", "logprobs"), ("n_probs", "logprobs"), ("num_return_sequences", "n"), ("temp", "temperature"),
        ("max_completion_tokens", "response_tokens"), ("mirostat_mode", "mirostat"), ("mirostat_lr", "mirostat_eta"),
        ("think", "thinking"), ("enable_thinking", "thinking"), ("reasoning_budget", "thinking_budget_tokens"),
        ("typ_p", "typical_p"), ("penalty_repeat", "repetition_penalty"), ("sampler_seq", "samplers"),
        ("suppress_tokens", "logit_bias"), ("deterministic", "reproducible"),
        ("function_call", "tool_choice"), ("chat_template_kwargs", "template_kwargs"),
    ],
)  # fmt: skip
def test_a_name_of_another_library_leads_to_ours(elsewhere: str, here: str) -> None:
    """Where the letters would lead nowhere, or to another option."""
    with pytest.raises(InvalidOption) as caught:
        parse_request_options({elsewhere: 1})
    assert caught.value.nearest == here
