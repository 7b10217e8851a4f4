"""The door for models: what is refused and how it is said, what is filled in, what goes through untouched."""

from __future__ import annotations

import math
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.errors import InvalidOption
from erllama_py.home import home_folder
from erllama_py.options.model import ContextOpts, ModelConfig, ModelOpts, parse_model_config
from erllama_py.options.policy import PolicyOpts
from erllama_py.options.process import ProcessOpts, RestartOpts
from erllama_py.options.stub import StubOpts
from erllama_py.options.tiers import parse_tier

STUB: dict[str, Any] = {"backend": "stub"}
HEX = "0123456789abcdef" * 4
INT32_MAX = (1 << 31) - 1


def refusal(options: Any) -> InvalidOption:
    """The error for `options`."""
    with pytest.raises(InvalidOption) as caught:
        parse_model_config(options)
    return caught.value


def stub(**sections: Any) -> dict[str, Any]:
    """A configuration of the stub with these sections."""
    return {**STUB, **sections}


def numbered(rows: list[tuple[str, object, str]]) -> list[str]:
    """Ids for rows that begin with an option."""
    return [f"{row[0]}-{number}" for number, row in enumerate(rows)]


# --- types and bounds --------------------------------------------------------------------------------

WRONG: list[tuple[str, object, str]] = [
    ("thinking_markers", ["<think>"], "expected a list of length 2, got 1"),
    ("thinking_markers", ["<think>", " "], "a marker is more than white space"),
    ("thinking_markers", False, "expected a list or None, got bool"),
    ("thinking_budget_message", None, "expected str, got None"),
    ("thinking_budget_message", "a" * 2001, "expected str of length <= 2000, got 2001"),
    ("thinking_signing_key", 7, "expected bytes or None, got int"),
    ("thinking_signing_key", b"", "expected bytes of length >= 1, got 0"),
    ("thinking_signing_key", "", "expected bytes of length >= 1, got 0"),
    ("thinking_signing_key", "\ud800", "the text has no UTF-8 form"),
    ("thinking_signing_key", b"k" * 4097, "expected bytes of length <= 4096, got 4097"),
    ("context_opts.n_ctx", "2048", "expected int or None, got str"),
    ("context_opts.n_ctx", True, "expected int or None, got bool"),
    ("context_opts.n_ctx", 2048.0, "expected int or None, got float"),
    ("context_opts.n_batch", None, "expected int, got None"),
    ("context_opts.n_ctx", -1, "expected int >= 0, got -1"),
    ("context_opts.yarn_beta_fast", 0, "expected a number other than 0, which is divided by"),
    ("context_opts.yarn_beta_slow", -0.0, "expected a number other than 0, which is divided by"),
    ("context_opts.n_ctx", 1 << 31, "expected int <= 2147483647, got 2147483648"),
    ("context_opts.n_ctx", 1 << 70, "expected int <= 2147483647, got 1180591620717411303424"),
    ("context_opts.n_ctx", 10**5000, "expected int <= 2147483647, got an integer of 16610 bits"),
    ("context_opts.n_batch", 0, "expected int >= 1, got 0"),
    ("context_opts.n_ubatch", 0, "expected int >= 1, got 0"),
    ("context_opts.n_threads", 0, "expected int >= 1, got 0"),
    ("context_opts.n_threads_batch", 513, "expected int <= 512, got 513"),
    ("context_opts.n_seq_max", 256, "expected int <= 255, got 256"),
    ("context_opts.flash_attn", "on", "expected one of True, False, 'auto', got 'on'"),
    ("context_opts.flash_attn", 1, "expected bool or str, got int"),
    ("context_opts.type_k", "q4", "expected one of 'bf16', 'f16', 'f32', 'q4_0', 'q5_0', 'q5_1', 'q8_0', got 'q4'"),
    ("context_opts.rope_scaling_type", "YARN", "expected one of 'linear', 'longrope', 'none', 'yarn', got 'YARN'"),
    ("context_opts.rope_freq_base", math.nan, "expected float >= 0.0, got nan"),
    ("context_opts.rope_freq_base", math.inf, "expected a finite number of 32 bits, got inf"),
    ("context_opts.rope_freq_scale", "1", "expected float or None, got str"),
    ("context_opts.yarn_ext_factor", -math.inf, "expected a finite number of 32 bits, got -inf"),
    ("context_opts.yarn_attn_factor", math.nan, "expected a finite number of 32 bits, got nan"),
    ("context_opts.yarn_beta_fast", 1e39, "expected a finite number of 32 bits, got 1e+39"),
    ("context_opts.yarn_beta_slow", 1e-39, "expected a finite number of 32 bits, got 1e-39"),
    ("context_opts.yarn_orig_ctx", 0, "expected int >= 1, got 0"),
    ("context_opts", 4, "expected a mapping, got int"),
    ("context_opts", None, "expected a mapping, got None"),
    ("context_opts", {1: 2}, "the names of options are str"),
    ("model_opts.n_gpu_layers", -2, "expected int >= -1, got -2"),
    ("model_opts.use_mmap", 1, "expected bool, got int"),
    ("model_opts.use_mlock", "yes", "expected bool, got str"),
    ("model_opts.vocab_only", None, "expected bool, got None"),
    ("model_opts.split_mode", "rows", "expected one of 'layer', 'none', 'row', got 'rows'"),
    ("model_opts.main_gpu", -1, "expected int >= 0, got -1"),
    ("model_opts.tensor_split", 1.0, "expected a list or None, got float"),
    ("model_opts.tensor_split", {1.0, 2.0}, "expected a list, got a set"),
    ("model_opts.tensor_split", [1, "2"], "expected float, got str"),
    ("model_opts.tensor_split", [1, math.nan], "expected a finite number of 32 bits, got nan"),
    ("model_opts.tensor_split", [], "expected a list of length >= 1, got 0"),
    ("model_opts.tensor_split", [1] * 17, "expected a list of length <= 16, got 17"),
    ("model_opts.tensor_split", [0, 0], "expected shares of 0 or more, one of them above 0"),
    ("model_opts.tensor_split", [2, -1], "expected shares of 0 or more, one of them above 0"),
    ("policy", [], "expected a mapping, got a list"),
    ("policy.min_tokens", -1, "expected int >= 0, got -1"),
    ("policy.continued_interval", 0, "expected int >= 1, got 0"),
    ("policy.boundary_align_tokens", 0, "expected int >= 1, got 0"),
    ("policy.session_resume_wait_ms", -1, "expected int >= 0, got -1"),
    ("stub.vocab_size", 256, "expected int >= 260, got 256"),
    ("stub.load_seconds", -1.0, "expected float >= 0.0, got -1.0"),
    ("stub.memory", "swa", "expected one of 'full', 'hybrid', 'recurrent', 'window', got 'swa'"),
    ("backend", "erllama_model_llama", "expected one of 'llama', 'stub', got 'erllama_model_llama'"),
    ("model_path", 7, "expected str or None, got int"),
    ("model_path", b"tiny.gguf", "expected str or None, got bytes"),
    ("model_path", "", "a path is not empty and has no NUL character"),
    ("model_path", "a\0b", "a path is not empty and has no NUL character"),
    ("model_path", "a\ud800b", "no file can have this name: it holds a lone surrogate"),
    ("fingerprint", "12", "expected 32 bytes or 64 hex digits"),
    ("fingerprint", "x" * 64, "expected 32 bytes or 64 hex digits"),
    ("fingerprint", b"x" * 31, "expected 32 bytes or 64 hex digits"),
    ("cache_salt", "\ud800", "the text has no UTF-8 form: it holds a lone surrogate"),
    ("cache_salt", "", "expected str of length >= 1, got 0"),
    ("fingerprint", f"{HEX}\n", "expected 32 bytes or 64 hex digits"),
    ("ctx_params_hash", 5, "expected 32 bytes or 64 hex digits"),
    ("fingerprint_mode", "fast", "expected one of 'fast_unsafe', 'gguf_chunked', 'safe', got 'fast'"),
    ("quant_type", "", "expected str of length >= 1, got 0"),
    ("quant_bits", 0, "expected int >= 1, got 0"),
    ("tier", "tape", "expected one of 'disk', 'ram', 'ram_file', got 'tape'"),
    ("tier_srv", 1, "expected str, got int"),
    ("cache_salt", "", "expected str of length >= 1, got 0"),
    ("cache_salt", "a" * 257, "expected str of length <= 256, got 257"),
    ("cache_salt", b"tenant", "expected str or None, got bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value", "problem"), WRONG, ids=numbered(WRONG))
def test_a_wrong_value_is_refused_with_its_path_and_what_was_expected(option: str, value: object, problem: str) -> None:
    """One sentence says which option, what it takes and what it got; no number is guessed from a text."""
    section, _, name = option.rpartition(".")
    error = refusal(stub(**{section: {name: value}} if section else {name: value}))
    assert (error.option, error.nearest) == (option, None)
    assert error.problem.startswith(problem)  # what to write instead may follow
    assert str(error) == f"option {option!r}: {error.problem}"


@pytest.mark.parametrize("options", [None, 7, "model.gguf", ["backend", "stub"], StubOpts()])
def test_what_is_no_mapping_is_no_configuration(options: Any) -> None:
    """The mistake is named as such, also for a struct of another kind."""
    error = refusal(options)
    assert error.option == "config"
    expected = 'expected a mapping, such as {"model_path": "model.gguf"}, or a ModelConfig'
    assert error.problem == f"{expected}, got {type(options).__name__}"


def test_a_value_that_is_too_long_to_show_is_cut() -> None:
    """An error fits into a line of a log."""
    assert len(refusal(stub(tier="x" * 10_000)).problem) < 150


# --- names -------------------------------------------------------------------------------------------

UNKNOWN: list[tuple[dict[Any, Any], str, str | None]] = [
    ({"n_ctx": 1}, "n_ctx", "context_opts.n_ctx"),
    ({"n_gpu_layer": 1}, "n_gpu_layer", "model_opts.n_gpu_layers"),
    ({"model_pth": 1}, "model_pth", "model_path"),
    ({"Model-Path": 1}, "Model-Path", "model_path"),
    ({"context_opts": {"n_cxt": 1}}, "context_opts.n_cxt", "context_opts.n_ctx"),
    ({"context_opts": {"use_mmap": True}}, "context_opts.use_mmap", "model_opts.use_mmap"),
    ({"context_opts": {"model_path": "a"}}, "context_opts.model_path", "model_path"),
    ({"model_opts": {"n_threads": 1}}, "model_opts.n_threads", "context_opts.n_threads"),
    ({"polcy": {}}, "polcy", "policy"),
    ({"num_gpu": 1}, "num_gpu", "model_opts.n_gpu_layers"),
    ({"path": "a"}, "path", "model_path"),
    ({"context_opts": {"parallel": 4}}, "context_opts.parallel", "context_opts.n_seq_max"),
    ({"policy": {"min_token": 1}}, "policy.min_token", "policy.min_tokens"),
    ({"process_opts": {"memory": 1}}, "process_opts.memory", "process_opts.memory_bytes"),
    ({"process_opts": {"cpuset": 1}}, "process_opts.cpuset", "process_opts.cpus"),
    ({"wholly unlike any": 1}, "wholly unlike any", None),
    ({"": 1}, "", None),
    ({"a`b": 1}, "a`b", None),
    ({"a` - at `$.policy": 1}, "a` - at `$.policy", None),
    ({"two\nlines": 1}, "two\nlines", None),
]


@pytest.mark.parametrize(("options", "option", "nearest"), UNKNOWN, ids=range(len(UNKNOWN)))
def test_an_unknown_name_is_refused_with_the_nearest_one(options: Any, option: str, nearest: str | None) -> None:
    """The same name in another section comes before a similar one in this section."""
    error = refusal({**STUB, **options})
    assert (error.option, error.nearest) == (option, nearest)
    known = "" if nearest else f"; there are {', '.join(ModelConfig.__struct_fields__)}"
    assert error.problem == f"there is no such option{known}"
    assert (f"did you mean '{nearest}'?" in str(error)) == (nearest is not None)


def test_names_that_are_no_text_are_refused() -> None:
    """A key of another type is not looked up and not ignored."""
    assert refusal({1: 2}).problem == "the names of options are str"


@given(st.text())
def test_any_unknown_name_is_refused_as_such(name: str) -> None:
    """No name, however strange, is taken for another option or for another mistake."""
    if name not in ModelConfig.__struct_fields__:
        error = refusal({**STUB, name: 1})
        assert error.option == name
        assert error.problem.startswith("there is no such option")


# --- values that must agree --------------------------------------------------------------------------

DISAGREEING: list[tuple[dict[str, Any], str]] = [
    ({}, "model_path"),
    ({"backend": "llama"}, "model_path"),
    ({"model_path": "a.gguf", "stub": {"fail_load": True}}, "stub"),
    (stub(fingerprint_mode="fast_unsafe"), "fingerprint"),
    (stub(context_size=4096, context_opts={"n_ctx": 2048}), "context_size"),
    (stub(context_opts={"n_batch": 8, "n_ubatch": 9}), "context_opts.n_ubatch"),
    (stub(context_opts={"n_ubatch": 513}), "context_opts.n_ubatch"),
    (stub(context_opts={"type_v": "q8_0", "flash_attn": False}), "context_opts.type_v"),
    (stub(policy={"min_tokens": 512, "cold_min_tokens": 511}), "policy.cold_min_tokens"),
    (stub(policy={"min_tokens": 512, "cold_max_tokens": 511}), "policy.cold_max_tokens"),
    (stub(stub={"memory": "window"}), "stub.n_swa"),
]


@pytest.mark.parametrize(("options", "option"), DISAGREEING, ids=range(len(DISAGREEING)))
def test_values_that_contradict_each_other_are_refused(options: dict[str, Any], option: str) -> None:
    """Each is possible alone; together they could not work."""
    assert refusal(options).option == option


AGREEING: list[dict[str, Any]] = [
    {"fingerprint_mode": "fast_unsafe", "fingerprint": HEX},
    {"context_size": 2048},
    {"context_opts": {"type_v": "q8_0"}},
    {"context_opts": {"type_v": "q8_0", "flash_attn": True}},
    {"context_opts": {"type_k": "q8_0", "flash_attn": False}},
    {"policy": {"min_tokens": 512}},
    {"policy": {"min_tokens": None, "cold_min_tokens": 0, "cold_max_tokens": 0}},
    {"policy": {"min_tokens": 512, "cold_min_tokens": 512, "cold_max_tokens": 512}},
    {"stub": {"memory": "window", "n_swa": 8}},
    {"model_opts": {"n_gpu_layers": -1, "tensor_split": (0, 3, 1.5)}},
    {"tier": "disk", "tier_srv": "my_disk"},
    {"cache_salt": "é" * 256},
]


@pytest.mark.parametrize("options", AGREEING, ids=range(len(AGREEING)))
def test_values_that_agree_are_taken(options: dict[str, Any]) -> None:
    """The other side of each rule."""
    assert parse_model_config({**STUB, **options}).backend == "stub"


# --- what comes out ----------------------------------------------------------------------------------


def test_the_defaults_are_filled_in() -> None:
    """Later rooms meet no `None` where a number is needed. Threads that are not given are found out as it runs."""
    context = parse_model_config(STUB).context_opts
    assert (context.n_ctx, context.n_seq_max, context.n_batch, context.n_ubatch) == (None, 4, 512, 512)
    assert (context.cells, context.sequences) == (8192, 4)  # n_ctx is settled by the file, when it is loaded
    assert (context.n_threads, context.n_threads_batch) == (None, None)


def test_the_batch_of_prompts_uses_the_threads_that_were_given() -> None:
    """`n_threads_batch` follows `n_threads`."""
    assert parse_model_config(stub(context_opts={"n_threads": 3})).context_opts.n_threads_batch == 3


def test_a_batch_wider_than_the_context_is_narrowed() -> None:
    """As llama.cpp does, but visible in the configuration."""
    context = parse_model_config(stub(context_opts={"n_ctx": 64, "n_batch": 4096, "n_ubatch": 128})).context_opts
    assert (context.n_batch, context.n_ubatch) == (64, 64)


def test_a_relative_path_is_taken_from_the_working_directory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of directory does not change which file is meant."""
    monkeypatch.chdir(tmp_path)
    assert parse_model_config({"model_path": "tiny.gguf"}).model_path == str(tmp_path / "tiny.gguf")
    assert parse_model_config({"model_path": Path("tiny.gguf")}).model_path == str(tmp_path / "tiny.gguf")
    assert parse_model_config({"model_path": "/srv/tiny.gguf"}).model_path == "/srv/tiny.gguf"


def test_a_path_in_the_home_directory_is_taken_as_a_shell_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` at the beginning, in all the paths that can be given."""
    monkeypatch.setenv("HOME", "/srv/me")
    assert parse_model_config({"model_path": "~/tiny.gguf"}).model_path == "/srv/me/tiny.gguf"
    assert parse_model_config({"model_path": Path("~/tiny.gguf")}).model_path == "/srv/me/tiny.gguf"
    assert parse_model_config({"model_path": "/a~/~"}).model_path == "/a~/~"
    assert parse_tier({"kind": "disk", "root": "~/rows"}).root == "/srv/me/rows"
    assert home_folder("~/erllama") == Path("/srv/me/erllama")
    monkeypatch.delenv("ERLLAMA_HOME", raising=False)
    assert home_folder() == Path("/srv/me/.cache/erllama")


def test_a_file_name_that_is_no_text_is_taken() -> None:
    """File names are bytes; Python writes those that are not UTF-8 with surrogates, and can write them back."""
    path = os.fsdecode(b"/srv/\xff.gguf")
    assert parse_model_config({"model_path": path}).model_path == path


def test_a_relative_path_without_a_working_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory can be removed under a process; that is reported like any other bad path."""

    def gone() -> str:
        raise FileNotFoundError("no such directory")

    monkeypatch.setattr(os, "getcwd", gone)
    assert refusal({"model_path": "tiny.gguf"}).option == "model_path"


@pytest.mark.parametrize("given_as", [HEX, HEX.upper(), bytes.fromhex(HEX)])
@pytest.mark.parametrize("name", ["fingerprint", "ctx_params_hash"])
def test_a_digest_comes_out_as_lower_case_digits(name: str, given_as: str | bytes) -> None:
    """However it was given, it compares with what is computed."""
    assert getattr(parse_model_config({**STUB, name: given_as}), name) == HEX


def test_the_name_of_a_quantisation_is_read_in_any_case() -> None:
    """File names write `Q4_K_M`, the files themselves `q4_k_m`."""
    assert parse_model_config(stub(quant_type="Q4_K_M")).quant_type == "q4_k_m"


def test_structs_and_mappings_may_be_mixed() -> None:
    """A section may be a struct in a mapping, and the whole a struct; both are checked in the same way."""
    by_mapping = parse_model_config(
        stub(context_opts={"n_ctx": 64}, model_opts=types.MappingProxyType({"main_gpu": 1}))
    )
    mixed = parse_model_config(stub(context_opts=ContextOpts(n_ctx=64), model_opts=ModelOpts(main_gpu=1)))
    whole = parse_model_config(
        ModelConfig(backend="stub", context_opts=ContextOpts(n_ctx=64), model_opts=ModelOpts(main_gpu=1))
    )
    assert by_mapping == mixed == whole


def test_a_struct_is_checked_as_a_mapping_is() -> None:
    """A struct's constructor checks nothing; the door does."""
    assert refusal(ModelConfig(backend="stub", context_opts=ContextOpts(n_ctx=-1))).option == "context_opts.n_ctx"
    assert refusal(ModelConfig(backend="stub", policy=PolicyOpts(continued_interval=True))).option == (
        "policy.continued_interval"
    )


def test_what_was_given_is_not_changed() -> None:
    """The caller's mapping can be used again."""
    options = {"backend": "stub", "fingerprint": HEX.upper(), "context_opts": {"n_ctx": 64}}
    parse_model_config(options)
    assert options == {"backend": "stub", "fingerprint": HEX.upper(), "context_opts": {"n_ctx": 64}}


sizes = st.integers(-1, 600)
anything = st.one_of(
    st.none(), st.booleans(), sizes, st.floats(), st.text(max_size=5), st.lists(sizes, max_size=3),
    st.binary(max_size=3),
)  # fmt: skip


def section(struct: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with names of `struct` and values of any kind."""
    return st.dictionaries(st.sampled_from(struct.__struct_fields__), anything, max_size=4)


configurations = st.fixed_dictionaries(
    {"backend": st.just("stub")},
    optional={
        "model_opts": section(ModelOpts), "context_opts": section(ContextOpts), "policy": section(PolicyOpts),
        "stub": section(StubOpts), "process_opts": section(ProcessOpts), "restarts": section(RestartOpts),
        "context_size": anything, "fingerprint": anything, "model_path": anything,
    },
)  # fmt: skip


def parsed_or_refused(options: Mapping[str, Any]) -> tuple[ModelConfig, InvalidOption | None]:
    """What the door makes of `options`; any other error goes through."""
    try:
        return parse_model_config(options), None
    except InvalidOption as error:
        return ModelConfig(), error


@given(configurations)
def test_a_configuration_is_refused_in_our_words_or_comes_out_complete(options: Mapping[str, Any]) -> None:
    """No foreign error leaves the door; what it lets in is complete, and goes through it again unchanged."""
    parsed, refused = parsed_or_refused(options)
    if refused is not None:
        assert refused.option.partition(".")[0] in options
        assert not re.search(r"[`$]", refused.problem)
        return
    context = parsed.context_opts
    assert context.n_threads is None or context.n_threads_batch is not None
    assert context.n_ubatch is not None
    assert context.n_seq_max is not None
    assert context.n_seq_max <= context.n_batch
    assert 1 <= context.n_ubatch <= context.n_batch <= context.cells <= INT32_MAX
    assert parsed.model_path is None or os.path.isabs(parsed.model_path)
    assert parse_model_config(parsed) == parsed
