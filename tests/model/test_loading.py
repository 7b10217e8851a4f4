"""Whether a file is what was described and fits, and what of a load goes into the keys of its rows: pure functions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import FileFacts, ModelFacts, ModelFile
from erllama_py.errors import InsufficientMemory, InvalidOption, QuantMismatch
from erllama_py.model.board import ModelBoard
from erllama_py.model.loaded import Prepared
from erllama_py.model.loading import (
    BOOK_BYTES,
    cell_bytes,
    check_file,
    describe,
    missed_gpu,
    range_bytes,
    resident_bytes,
    settled,
)
from erllama_py.options.model import ModelConfig, ModelOpts, parse_model_config, with_trained_context
from erllama_py.results import ModelInfo

GIB = 1 << 30
BOOK = 8192 * BOOK_BYTES
PLENTY = 64 * GIB
FACTS: dict[str, Any] = {
    "architecture": "llama", "quant_type": "q4_k_m", "quant_bits": 4, "n_ctx_train": 8192, "n_layer": 32,
    "kv_bytes_per_token": 1 << 17,
    "files": tuple(
        ModelFile(path="", size=2 * GIB, mtime=0, inode=0, metadata_size=1 << 19, first_tensor_size=1 << 20)
        for _ in range(2)
    ),
}  # fmt: skip


def facts(**changes: Any) -> FileFacts:
    return FileFacts(**(FACTS | changes))


def config(**options: Any) -> ModelConfig:
    return parse_model_config({"model_path": "/a.gguf", "context_opts": {"n_ctx": 8192}} | options)


def unsized(**options: Any) -> ModelConfig:
    return config(**{"context_opts": {}} | options)


def test_cells_are_counted_by_the_types_of_keys_and_values() -> None:
    """8,192 positions of 128 KiB in f16; q8_0 takes 34 bytes for 32 elements instead of 64."""
    assert cell_bytes(facts(), config().context_opts) == GIB
    halved = config(context_opts={"n_ctx": 8192, "type_k": "q8_0", "type_v": "q8_0"})
    assert cell_bytes(facts(), halved.context_opts) == GIB * 34 // 64


def test_a_range_is_as_long_as_may_be_copied_at_once() -> None:
    """512 tokens of 128 KiB and a sixteenth, or all of a shorter context; nothing where nothing is saved."""
    assert range_bytes(facts(), config()) == 512 * (1 << 17) * 17 // 16
    assert range_bytes(facts(), config(context_opts={"n_ctx": 256})) == 256 * (1 << 17) * 17 // 16
    assert range_bytes(facts(kv_bytes_per_token=0), config()) == 0
    assert range_bytes(facts(), config(policy={"min_tokens": None})) == 0
    assert range_bytes(facts(), config(model_opts={"vocab_only": True})) == 0


def test_a_sliding_window_is_not_refused_for_cells_that_it_never_has() -> None:
    """Counted with the window alone, unless all cells are asked for."""
    window = facts(sliding_window=1024)
    assert cell_bytes(window, config().context_opts) == GIB // 8
    assert cell_bytes(window, config(context_opts={"n_ctx": 8192, "swa_full": True}).context_opts) == GIB


@pytest.mark.parametrize(
    ("model_opts", "context_opts", "needed"),
    [
        ({}, {}, GIB + BOOK),
        ({"use_mmap": False}, {}, 5 * GIB + BOOK),
        ({"n_gpu_layers": 99}, {}, 0),
        ({"n_gpu_layers": 99}, {"offload_kqv": False}, GIB + BOOK),
        ({"vocab_only": True}, {}, 1 << 20),
    ],
)
def test_only_what_stays_in_this_machines_memory_counts(
    model_opts: dict[str, Any], context_opts: dict[str, Any], needed: int
) -> None:
    """Mapped weights and what lies on a GPU do not."""
    wanted = config(model_opts=model_opts, context_opts={"n_ctx": 8192} | context_opts)
    with_gpu = facts(offloads=True)
    assert resident_bytes(wanted, with_gpu) == needed
    check_file(wanted, with_gpu, needed)
    if needed:
        with pytest.raises(InsufficientMemory) as caught:
            check_file(wanted, with_gpu, needed - 1)
        assert (caught.value.needed, caught.value.available) == (needed, needed - 1)


def test_a_gpu_that_is_not_there_has_no_memory() -> None:
    """Whatever is asked for, the cells are in this machine's, and it is said."""
    wanted = config(model_opts={"n_gpu_layers": -1, "use_mmap": False})
    assert resident_bytes(wanted, facts()) == 5 * GIB + BOOK
    assert "finds no GPU" in (missed_gpu(wanted, facts()) or "")
    assert missed_gpu(wanted, facts(offloads=True)) is None
    assert missed_gpu(config(), facts()) is None


def test_cells_without_end_are_refused_whatever_they_hold() -> None:
    """What is noted of each cell alone is more than there is."""
    window = facts(sliding_window=64)
    with pytest.raises(InsufficientMemory):
        check_file(config(context_opts={"n_ctx": (1 << 31) - 1}), window, PLENTY)


def test_a_context_of_0_is_what_the_file_says() -> None:
    """As given, the batch within it; a file that does not say is an error, as is what does not fit."""
    wanted = config(context_opts={"n_ctx": 0, "n_batch": 100_000})
    context = with_trained_context(wanted, 8192).context_opts
    assert (context.n_ctx, context.n_batch, context.n_ubatch) == (8192, 8192, 8192)
    with pytest.raises(InvalidOption, match="does not say with what context"):
        with_trained_context(wanted, 0)
    with pytest.raises(InvalidOption, match="must hold a token of each sequence"):
        with_trained_context(config(context_opts={"n_ctx": 0, "n_seq_max": 4}), 2)
    with pytest.raises(InvalidOption, match="it is 4096, but n_ctx is 8192"):
        with_trained_context(config(context_opts={"n_ctx": 0}, context_size=4096), 8192)
    assert with_trained_context(config(), 4) == config()


def test_a_context_that_nobody_sized_is_for_a_chat() -> None:
    """8,192 cells and four sequences, or as many as the model was trained for; 2,048 where the file does not say."""
    for trained, cells in ((131_072, 8192), (8192, 8192), (4096, 4096), (512, 512), (0, 2048), (2, 4)):
        context = settled(unsized(), facts(n_ctx_train=trained), PLENTY).context_opts
        assert (context.n_ctx, context.n_seq_max, context.n_batch) == (cells, 4, min(cells, 512))
    many = settled(config(context_opts={"n_seq_max": 100}), facts(n_ctx_train=64), PLENTY).context_opts
    assert (many.n_ctx, many.n_seq_max) == (100, 100)
    assert settled(config(context_opts={"n_batch": 3}), facts(n_ctx_train=4096), PLENTY).context_opts.n_seq_max == 3
    assert settled(unsized(context_size=300), facts(n_ctx_train=4096), PLENTY).context_opts.n_ctx == 300
    for cells in (1000, 100_000):
        assert settled(config(context_opts={"n_ctx": cells}), facts(n_ctx_train=4096), 0).context_opts.n_ctx == cells


def test_a_context_that_nobody_sized_does_not_hurt_a_small_machine() -> None:
    """Its cells are halved until they take a quarter of what is free beside the weights: an 8B model (128 KiB a token)
    has 8,192 with 9 GiB free, and never less than 2,048. What a GPU holds is not counted here."""
    large = facts(n_ctx_train=131_072, kv_bytes_per_token=128 << 10)
    for free, cells in ((64, 8192), (9, 8192), (7, 4096), (5, 2048), (3, 2048)):
        assert settled(unsized(), large, free * GIB).context_opts.n_ctx == cells
    on_gpu = msgspec.structs.replace(large, offloads=True)
    assert settled(unsized(model_opts={"n_gpu_layers": -1}), on_gpu, 3 * GIB).context_opts.n_ctx == 8192


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 40), st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_context_that_nobody_sized_is_bounded(trained: int, free: int, per_token: int, many: int) -> None:
    """By the default and by what the model was trained for; more memory is never fewer cells; it is settled then."""
    file = facts(n_ctx_train=trained, kv_bytes_per_token=per_token)
    asked = config(context_opts={"n_seq_max": many})
    found = settled(asked, file, free)
    cells = found.context_opts.cells
    assert many <= cells <= max(8192, many)
    assert cells <= max(many, trained or 2048)
    assert cells >= min(2048, trained or 2048)
    assert settled(asked, file, 2 * free).context_opts.cells >= cells
    assert settled(found, file, 0) == found


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"quant_type": "Q4_K_M", "quant_bits": 4}, None),
        ({"quant_type": "q8_0"}, QuantMismatch),
        ({"quant_bits": 8}, QuantMismatch),
        ({"context_opts": {"n_ctx": 2, "n_seq_max": 4}}, InvalidOption),
    ],
)
def test_what_was_given_is_compared_with_the_file(options: dict[str, Any], error: type[Exception] | None) -> None:
    """Names of quantisations in any case; a difference names the option."""
    if error is None:
        check_file(config(**options), facts(), PLENTY)
    else:
        with pytest.raises(error):
            check_file(config(**options), facts(), PLENTY)


OTHER_WAYS: dict[str, Any] = {
    "n_gpu_layers": 99, "split_mode": "row", "main_gpu": 1, "tensor_split": [3, 1], "use_mmap": False,
    "use_mlock": True, "vocab_only": True,
}  # fmt: skip


def described(wanted: ModelConfig) -> ModelInfo:
    loaded = ModelFacts(
        description="", n_params=0, size_bytes=0, n_vocab=1, n_layer=1, n_ctx_train=1, n_ctx=8192,
        n_batch=512, n_ubatch=512, n_seq_max=1, memory="full", n_swa=0, state_bytes=0, flash_attn=True,
        chat_template=None, bos_token="", eos_token="", build="b1",
    )  # fmt: skip
    choice = ThreadChoice(few=3, many=4)
    prepared = Prepared(facts=facts(), fingerprint="ab" * 32, threads=choice, threads_reason="told so")
    return describe(ModelBoard("m", wanted, None), prepared, loaded, 0.0)


@pytest.mark.parametrize("name", ModelOpts.__struct_fields__)
def test_how_and_where_weights_are_loaded_is_in_no_key(name: str) -> None:
    """Rows are found again after layers were moved to a GPU, or back."""
    one, other = described(config()), described(config(model_opts={name: OTHER_WAYS[name]}))
    assert one.config.model_opts != other.config.model_opts
    assert one.fingerprint == other.fingerprint
    assert one.quant_bits == other.quant_bits
    assert one.ctx_params_hash == other.ctx_params_hash


def test_a_limit_that_can_never_be_enough_is_told_before_anything_begins() -> None:
    """By what is its process's own: mapped weights are not."""
    needed = resident_bytes(config(), facts())
    for use_mmap, least in ((True, needed), (False, needed + facts().file_size)):
        opts: dict[str, Any] = {"isolation": "process", "model_opts": {"use_mmap": use_mmap}}
        check_file(config(**opts, process_opts={"memory_bytes": least}), facts(), PLENTY)
        with pytest.raises(InsufficientMemory, match="its process may take") as caught:
            check_file(config(**opts, process_opts={"memory_bytes": least - 1}), facts(), PLENTY)
        assert (caught.value.needed, caught.value.available) == (least, least - 1)


def test_a_context_that_nobody_sized_fits_into_the_limit_of_its_process() -> None:
    """As into the memory of a small machine."""
    large = facts(n_ctx_train=1 << 17)
    assert settled(unsized(), large, PLENTY).context_opts.n_ctx == 8192
    for most, cells in ((5 * GIB, 8192), (3 * GIB, 4096), (2 * GIB, 2048), (GIB // 8, 2048)):
        bounded = unsized(isolation="process", process_opts={"memory_bytes": most})
        assert settled(bounded, large, PLENTY).context_opts.n_ctx == cells
