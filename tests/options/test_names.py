"""What people of other libraries write first: each unknown name is answered with what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py import InvalidOption
from erllama_py.options.elsewhere import ELSEWHERE, INSTEAD, plain_name
from erllama_py.options.embedding import parse_embed_options
from erllama_py.options.load_call import load_call
from erllama_py.options.model import ModelConfig, parse_model_config
from erllama_py.options.names import checked_names, nearest_name, option_names, unknown
from erllama_py.options.policy import parse_policy
from erllama_py.options.request import RequestOptions, parse_request_options
from erllama_py.options.tiers import parse_tier


def loaded(**options: Any) -> Any:
    return parse_model_config({"model_path": "m.gguf", **options})


def asked(**options: Any) -> Any:
    return parse_request_options(options)


def tier(**options: Any) -> Any:
    return parse_tier({"kind": "disk", "root": "/rows", **options})


def refusal(call: Callable[[], object]) -> InvalidOption:
    with pytest.raises(InvalidOption) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("parse", "elsewhere", "here"),
    [
        (loaded, "ngl", "model_opts.n_gpu_layers"), (loaded, "device_map", "model_opts.n_gpu_layers"),
        (loaded, "ctx_size", "context_opts.n_ctx"), (loaded, "max_model_len", "context_opts.n_ctx"),
        (loaded, "num_ctx", "context_opts.n_ctx"), (loaded, "max_num_seqs", "context_opts.n_seq_max"),
        (loaded, "kv_cache_dtype", "context_opts.type_k"), (loaded, "model_name_or_path", "model_path"),
        (loaded, "mmap", "model_opts.use_mmap"), (loaded, "--threads", "context_opts.n_threads"),
        (asked, "maxTokens", "response_tokens"), (asked, "max_length", "response_tokens"),
        (asked, "stop_words", "stop_sequences"), (asked, "request_timeout", "deadline"), (asked, "topK", "top_k"),
        (asked, "json_mode", "json_schema"), (asked, "documents", "template_kwargs"),
        (asked, "previous_response_id", "session_id"), (loaded, "context", "context_opts.n_ctx"),
        (loaded, "delay", "stub.seconds_per_token"), (loaded, "responses", "stub.replies"),
        (loaded, "max_restarts", "restarts.intensity"), (loaded, "mem_limit", "process_opts.memory_bytes"),
        (tier, "path", "root"), (tier, "max_size", "quota_bytes"),
    ],
)  # fmt: skip
def test_a_name_of_another_library_leads_to_the_option_that_it_is_here(
    parse: Callable[..., Any], elsewhere: str, here: str
) -> None:
    """Written as there: with dashes, in camel case, from a command line."""
    error = refusal(lambda: parse(**{elsewhere: 1}))
    assert (error.option, error.nearest) == (elsewhere, here)


@pytest.mark.parametrize(
    ("parse", "name", "said"),
    [
        (asked, "stream", "`stream_chat`"), (asked, "system", '{"role": "system"'),
        (asked, "messages", "chat(messages)"),
        (asked, "model", "runtime.model(id)"), (asked, "num_beams", "no beam search"),
        (asked, "n_keep", "ContextOverflow"),
        (asked, "logits_processor", "logit_bias"), (asked, "on_token", "events"), (asked, "use_cache", "policy"),
        (asked, "user", "leave it out"), (asked, "reasoning_effort", "template_kwargs={"),
        (asked, "skip_special_tokens", "special=True"), (asked, "do_sample", "temperature=0.0"),
        (asked, "echo", "prompt_logprobs"), (asked, "context", "session"), (loaded, "defaults", "each request"),
        (loaded, "cache", "Runtime(tiers"), (loaded, "no_mmap", "use_mmap=False"),
        (asked, "images", "text alone"), (asked, "sampling_params", "by keyword"),
        (asked, "num_ctx", "it is set when the model is loaded: context_opts.n_ctx"),
        (asked, "n_gpu_layers", "it is set when the model is loaded: model_opts.n_gpu_layers"),
        (asked, "pooling", "an option of `embed`"), (loaded, "temperature", "an option of each request"),
        (loaded, "max_tokens", "an option of each request, of `complete` and `chat`: response_tokens"),
        (loaded, "timeout", "an option of each request, of `complete` and `chat`: deadline"),
        (loaded, "root", "an option of a tier"), (loaded, "cache_dir", "DiskTier"),
        (loaded, "torch_dtype", "another file"), (loaded, "chat_format", "chat_template"),
        (loaded, "verbose", "logger 'erllama_py'"), (loaded, "lora_path", "merge"), (loaded, "mmproj", "text alone"),
        (loaded, "repo_id", "model_path=\"hf:owner/repo:Q4_K_M\""), (loaded, "keep_alive", "unload"),
        (loaded, "cont_batching", "n_seq_max"),
        (loaded, "embedding", "model.embed"), (loaded, "id", "load_model(id, config)"),
        (loaded, "clip_model_path", "text alone"), (loaded, "dtype", "type_k"),
        (lambda **given: parse_policy(given), "enabled", "min_tokens=None"),
        (lambda **given: parse_embed_options(given), "model", "runtime.model(id)"),
    ],
)  # fmt: skip
def test_what_no_option_stands_for_is_said_in_words(parse: Callable[..., Any], name: str, said: str) -> None:
    """And never a name that only looks alike: `dtype` is not `type_v`."""
    error = refusal(lambda: parse(**{name: 1}))
    assert said in error.problem
    assert error.nearest is None


def test_names_of_other_libraries_are_none_of_ours_and_lead_to_options_that_there_are() -> None:
    """A table that has gone stale would send callers astray."""
    kinds = (
        RequestOptions, ModelConfig, erllama.EmbedOptions, erllama.RerankOptions, erllama.DiskTier, erllama.PolicyOpts,
    )  # fmt: skip
    known = {name.rpartition(".")[2] for kind in kinds for name in option_names(kind)}
    known |= {"tiers", "ram_quota_bytes", "max_rounds"}
    assert {ours for all_of in ELSEWHERE.values() for ours in all_of} <= known


def test_a_struct_is_made_with_known_names_too() -> None:
    """By keyword, without a mapping between."""
    structs: list[tuple[Any, str, str]] = [
        (RequestOptions, "max_tokens", "response_tokens"), (erllama.ContextOpts, "ctx_size", "n_ctx"),
        (erllama.ModelConfig, "n_ctx", "context_opts.n_ctx"), (erllama.DiskTier, "size", "quota_bytes"),
    ]  # fmt: skip
    for kind, name, here in structs:
        assert refusal(partial(kind, **{name: 3})).nearest == here


def test_so_are_calls_with_names_of_their_own() -> None:
    """Runtimes and sessions, whose keywords are no struct."""
    runtime: Any = erllama.Runtime
    assert refusal(lambda: runtime(cache_dir="/rows")).nearest == "tiers"
    assert "load_model" in refusal(lambda: runtime(max_models=2)).problem
    assert "it is set when the model is loaded: model_path" in refusal(lambda: runtime(model_path="m.gguf")).problem
    session: Any = erllama.Model.session
    assert '{"role": "system"' in refusal(lambda: session(None, system="Be brief.")).problem


@given(st.text(max_size=20))
def test_any_name_is_answered(name: str) -> None:
    """Whatever it is, the error names it, and what it leads to exists."""
    names = list(option_names(RequestOptions))
    error = unknown(name, "", names)
    assert error.option == name
    assert error.nearest in (None, *names)


@given(st.sampled_from(sorted(ELSEWHERE)), st.sampled_from([str.upper, lambda text: "--" + text.replace("_", "-")]))
def test_the_spelling_of_a_name_makes_no_difference(name: str, spelt: Callable[[str], str]) -> None:
    """As on a command line, or in capitals."""
    names = list(option_names(ModelConfig))
    assert plain_name(spelt(name)) == name
    assert nearest_name(spelt(name), "", names) == nearest_name(name, "", names)


@pytest.mark.anyio
async def test_a_call_that_waits_is_checked_when_it_is_awaited() -> None:
    """And is a coroutine function to those who look."""

    @checked_names
    async def call(*, stop_sequences: str = "") -> str:
        return stop_sequences

    wrong: Any = call
    assert await call(stop_sequences="x") == "x"
    with pytest.raises(InvalidOption, match="did you mean 'stop_sequences'"):
        await wrong(stop="x")


PATH = {"model_path": "m.gguf"}


@pytest.mark.parametrize(
    ("args", "keywords", "expected"),
    [
        (("m.gguf",), {}, (None, PATH)), ((Path("m.gguf"),), {}, (None, {"model_path": Path("m.gguf")})),
        (("M.GGUF",), {}, (None, {"model_path": "M.GGUF"})), (("a", "b"), {}, ("a", {"model_path": "b"})),
        ((PATH,), {}, (None, PATH)), (("a", PATH), {}, ("a", PATH)), (("a",), PATH, ("a", PATH)),
        ((), PATH, (None, PATH)), (("m.gguf",), {"tier": "disk"}, (None, {**PATH, "tier": "disk"})),
        (("a", "m.gguf"), {"tier": "disk"}, ("a", {**PATH, "tier": "disk"})), ((None, PATH), {}, (None, PATH)),
        (("/blobs/sha256-1",), {}, (None, {"model_path": "/blobs/sha256-1"})),
        (("~/m",), {}, (None, {"model_path": "~/m"})), (("a.gguf", "b.gguf"), {}, ("a.gguf", {"model_path": "b.gguf"})),
    ],
)  # fmt: skip
def test_a_load_is_called_with_a_file_where_it_can_only_mean_one(
    args: tuple[Any, ...], keywords: dict[str, Any], expected: object
) -> None:
    """What stands alone and ends in `.gguf` is no id; what stands second is never one."""
    first, second = (*args, None, None)[:2]
    assert load_call(first, second, keywords) == expected


def test_keywords_beside_a_struct_replace_what_it_has() -> None:
    """As with `options` of a request."""
    _, options = load_call(ModelConfig(backend="stub"), None, {"tier": "ram"})
    config = parse_model_config(options)
    assert (config.backend, config.tier) == ("stub", "ram")


@pytest.mark.parametrize(
    ("args", "keywords", "said"),
    [
        (("tiny",), {}, "'tiny' alone is an id"), ((), {}, "a file or a configuration is needed"),
        (("m.gguf", "tiny"), {}, "an id, which goes first"), ((PATH, "tiny"), {}, "an id, which goes first"),
        ((Path("m.gguf"), "tiny"), {}, "an id, which goes first"), (("llama3:8b",), {}, "alone is an id"),
        ((PATH,), PATH, "given twice"), (("m.gguf",), PATH, "given twice"),
    ],
)  # fmt: skip
def test_a_load_that_could_mean_nothing_says_how_it_is_called(
    args: tuple[Any, ...], keywords: dict[str, Any], said: str
) -> None:
    """With an example."""
    first, second = (*args, None, None)[:2]
    assert said in refusal(lambda: load_call(first, second, keywords)).problem


def test_what_is_said_instead_names_no_option_of_its_own() -> None:
    """A name in both tables leads to the option where there is one; where there is none, to the words."""
    assert not INSTEAD.keys() & {name.rpartition(".")[2] for name in option_names(RequestOptions)}


def test_a_checked_config_is_a_struct_that_msgspec_still_converts() -> None:
    """The class that checks names changes nothing else of a struct."""
    assert msgspec.convert({"n_ctx": 3}, erllama.ContextOpts).n_ctx == 3
    assert msgspec.structs.replace(erllama.ContextOpts(), n_ctx=3) == erllama.ContextOpts(n_ctx=3)


@pytest.mark.parametrize(
    ("parse", "option", "value", "said"),
    [
        (asked, "temperature", "0.7", "got str: write 0.7 without quotes"),
        (asked, "temperature", None, "leave it out for the default"),
        (asked, "response_tokens", "16", "write 16 without quotes"), (asked, "deadline", "1s", "a number of seconds"),
        (asked, "stop_sequences", None, "leave it out for the default"), (asked, "priority", "high", "the sooner"),
        (tier, "quota_bytes", "5GB", "a number of bytes, such as 5 << 30"), (loaded, "tier", "/rows", "DiskTier"),
        (loaded, "tier", erllama.DiskTier("/rows"), "DiskTier"), (loaded, "tier_srv", Path("rows"), "DiskTier"),
    ],
)  # fmt: skip
def test_a_value_as_other_libraries_take_it_says_what_to_write(
    parse: Callable[..., Any], option: str, value: object, said: str
) -> None:
    """A number as a text, None for a default, a tier where its name is expected."""
    assert said in refusal(lambda: parse(**{option: value})).problem


def test_so_do_numbers_in_words() -> None:
    """Of the layers on a GPU, for one."""
    assert "-1 is all layers" in refusal(lambda: loaded(model_opts={"n_gpu_layers": "all"})).problem
    assert "computes fastest" in refusal(lambda: loaded(context_opts={"n_threads": "auto"})).problem
    runtime: Any = erllama.Runtime
    assert 'DiskTier("/a/directory")' in refusal(lambda: runtime(tiers="/rows")).problem
    assert "DiskTier('/rows')" in refusal(lambda: runtime(tiers={"disk": "/rows"})).problem
    assert "a function of an id" in refusal(lambda: runtime(backend_factory="stub")).problem


def test_a_name_of_megabytes_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning is, and told: the rest would take seconds on the event loop."""
    looked: list[int] = []
    matches = difflib.get_close_matches

    def counted(name: str, *more: Any, **how: Any) -> list[str]:
        looked.append(len(name))
        return matches(name, *more, **how)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    with pytest.raises(InvalidOption) as refused:
        parse_request_options({"x" * 1_000_000: 1})
    assert len(str(refused.value)) < 5000
    assert 0 < max(looked) <= 100
