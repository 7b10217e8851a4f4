"""What is read from a GGUF file before it is loaded, and how a file that is no model is refused."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers.tiny_gguf import KINDS, Broken, Kind, broken_gguf, tiny_gguf

from erllama_py.engine.backend import FileFacts
from erllama_py.engine.llama import LlamaBackend
from erllama_py.engine.llama.gguf_file import quant_bits
from erllama_py.errors import (
    ErllamaError,
    ModelFileNotFound,
    ModelLoadError,
    ModelNotLoaded,
    NotAGGUF,
    TruncatedGGUF,
    UnsupportedModel,
)
from erllama_py.options.model import ModelConfig

Configure = Callable[..., ModelConfig]


def inspect(path: Path, configure: Configure) -> FileFacts:
    return LlamaBackend("tiny", configure(path)).inspect()


@pytest.mark.parametrize("kind", KINDS)
def test_the_facts_of_a_file_agree_with_an_independent_reader(models: Path, configure: Configure, kind: Kind) -> None:
    """Architecture, layers, sizes and offsets, for each kind of model."""
    path = tiny_gguf(kind, models)
    facts, reader = inspect(path, configure), gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture")
    layers = reader.get_field(f"{facts.architecture}.block_count")
    assert architecture is not None
    assert layers is not None
    assert facts.architecture == architecture.contents()
    assert facts.n_layer == layers.contents()
    assert (facts.quant_type, facts.quant_bits, facts.n_ctx_train) == ("f32", 32, 4096)
    (file,) = facts.files
    assert file.path == str(path)
    assert facts.file_size == file.size == path.stat().st_size
    assert facts.metadata_size == file.metadata_size == reader.data_offset == reader.tensors[0].data_offset
    assert file.first_tensor_size == reader.tensors[0].n_bytes
    window = reader.get_field(f"{facts.architecture}.attention.sliding_window")
    assert facts.sliding_window == (window.contents() if window is not None else 0)
    assert (facts.sliding_window > 0) == (kind == "window")


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("dense", 2 * 1 * (32 + 32) * 2),  # layers · KV heads · (key + value) · bytes of f16
        ("window", 4 * 1 * (32 + 32) * 2),
        ("hybrid", 2 * 1 * (32 + 32) * 2),  # two of its four layers attend
        ("recurrent", 0),
    ],
)
def test_kv_bytes_count_the_layers_that_attend(models: Path, configure: Configure, kind: Kind, size: int) -> None:
    """A recurrent layer keeps a state, not cells."""
    assert inspect(tiny_gguf(kind, models), configure).kv_bytes_per_token == size


def test_a_file_that_does_not_name_its_type_is_judged_by_its_tensors(tmp_path: Path, configure: Configure) -> None:
    """The type of most of its bytes counts."""
    path = tmp_path / "untyped.gguf"
    path.write_bytes(tiny_gguf("dense", tmp_path).read_bytes().replace(b"general.file_type", b"general.nothing__"))
    assert inspect(path, configure).quant_type == "f32"


@pytest.mark.parametrize(
    ("factors", "original", "above"),
    [("rope_factors_long", 4096, 4096), ("rope_factors_long", None, 131072), ("rope_factors_short", 4096, 0)],
)
def test_factors_for_long_contexts_begin_above_the_original_length(
    tmp_path: Path, configure: Configure, factors: str, original: int | None, above: int
) -> None:
    """Where the file has them; it may leave out how long the model was first trained for."""
    path = tmp_path / "long.gguf"
    writer = gguf.GGUFWriter(path, "phi3")
    writer.add_context_length(131072)
    if original is not None:
        writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_tensor(f"{factors}.weight", np.ones(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert inspect(path, configure).long_rope_above == above


@pytest.mark.parametrize(
    ("name", "bits"),
    [("q4_k_m", 4), ("q4_1", 4), ("iq2_xxs", 2), ("f16", 16), ("bf16", 16), ("tq1_0", 1), ("mxfp4_moe", 4), ("?", 0)],
)
def test_bits_are_read_from_the_name_of_the_type(name: str, bits: int) -> None:
    """All of llama.cpp's names carry them."""
    assert quant_bits(name) == bits


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("directory", ModelFileNotFound),
        ("wrong_magic", NotAGGUF),
        ("empty", NotAGGUF),
        ("cut_in_magic", TruncatedGGUF),
        ("cut_in_header", TruncatedGGUF),
        ("cut_in_weights", TruncatedGGUF),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_inspect_and_load_alike(
    models: Path, configure: Configure, how: Broken, error: type[ModelLoadError]
) -> None:
    """The same class from both, with the path in it; closing afterwards is fine."""
    backend = LlamaBackend("tiny", configure(broken_gguf(how, models)))
    with pytest.raises(error) as inspected:
        backend.inspect()
    with pytest.raises(error) as loaded:
        backend.load(lambda _: True)
    assert inspected.value.model_path == loaded.value.model_path == str(broken_gguf(how, models))
    backend.close()


@pytest.mark.parametrize("name", ["missing.gguf", "mis\0sing.gguf", "x" * 300 + ".gguf"])
def test_a_path_that_leads_nowhere_is_said_to(tmp_path: Path, configure: Configure, name: str) -> None:
    """Missing, impossible, too long."""
    with pytest.raises(ModelFileNotFound):
        inspect(tmp_path / name, configure)


def test_a_pipe_is_not_waited_for(tmp_path: Path, configure: Configure) -> None:
    """Only regular files are opened: a pipe without a writer would block for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileNotFound, match="not a regular file"):
        inspect(tmp_path / "pipe", configure)


def test_an_unknown_architecture_is_refused_by_the_load(models: Path, configure: Configure) -> None:
    """The header is fine, so `inspect` tells what it is; only llama.cpp knows what it can run."""
    backend = LlamaBackend("tiny", configure(broken_gguf("unknown_architecture", models)))
    assert backend.inspect().architecture == "nonesuch"
    with pytest.raises(UnsupportedModel, match="nonesuch"):
        backend.load(lambda _: True)


@pytest.mark.parametrize("spoilt", [b"llama.block_count", b"tokenizer.ggml.model", b"blk.1.attn_q.weight", b"gpt2"])
def test_a_file_that_lacks_what_its_architecture_needs_is_unsupported(
    tmp_path: Path, configure: Configure, spoilt: bytes
) -> None:
    """A key, a tensor or a known tokenizer is missing."""
    path = tmp_path / "spoilt.gguf"
    path.write_bytes(tiny_gguf("dense", tmp_path).read_bytes().replace(spoilt, b"Z" * len(spoilt)))
    with pytest.raises(UnsupportedModel):
        LlamaBackend("tiny", configure(path)).load(lambda _: True)


@pytest.mark.slow
def test_a_header_cut_anywhere_is_refused(tmp_path: Path, configure: Configure) -> None:
    """At any length from nothing to one byte short: an error of ours, never a crash."""
    whole = tiny_gguf("dense", tmp_path).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 60), *range(60, 7000, 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises((NotAGGUF, TruncatedGGUF)):
            inspect(path, configure)


@pytest.mark.slow
def test_a_flipped_byte_in_the_header_is_refused_or_harmless(tmp_path: Path, configure: Configure) -> None:
    """Counts, lengths and types may be nonsense: the answer is facts or an error of ours."""
    whole = tiny_gguf("dense", tmp_path).read_bytes()
    path = tmp_path / "flipped.gguf"
    outcomes: set[type] = set()
    for place in range(4, 700, 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            outcomes.add(type(inspect(path, configure)))
        except ErllamaError as error:
            outcomes.add(type(error))
    assert outcomes <= {FileFacts, NotAGGUF, TruncatedGGUF, UnsupportedModel}


def test_nothing_is_there_before_the_load(models: Path, configure: Configure) -> None:
    """Inspecting does not load."""
    backend = LlamaBackend("tiny", configure(tiny_gguf("dense", models)))
    backend.inspect()
    with pytest.raises(ModelNotLoaded):
        backend.vocabulary.tokenize("a", add_special=False, parse_special=False)
    with pytest.raises(ModelNotLoaded):
        backend.positions(0)
    backend.close()


@pytest.mark.real_model
def test_a_real_model_says_what_it_is(smollm2: Path, configure: Configure) -> None:
    """SmolLM2: 30 layers of 3 KV heads of 64, f16 keys and values."""
    facts = inspect(smollm2, configure)
    assert (facts.architecture, facts.quant_type, facts.quant_bits) == ("llama", "q4_1", 4)
    assert (facts.n_layer, facts.n_ctx_train) == (30, 8192)
    assert facts.kv_bytes_per_token == 30 * 3 * (64 + 64) * 2
    assert facts.file_size == smollm2.stat().st_size
    assert 0 < facts.metadata_size < facts.files[0].first_tensor_size < facts.file_size


def whole(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """The dense model's file, changed, and as long as it was."""
    data = change(tiny_gguf("dense", path).read_bytes())
    (path / "changed.gguf").write_bytes(data)
    return path / "changed.gguf"


def tensor_at(data: bytes, name: bytes) -> int:
    """Where, in the table of tensors, what follows the name of one is."""
    return data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)


def set_type(number: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = tensor_at(data, b"output_norm.weight") + 4 + 8  # one dimension
        return data[:at] + struct.pack("<I", number) + data[at + 4 :]

    return change


def move(data: bytes) -> bytes:
    at = tensor_at(data, b"output_norm.weight") + 4 + 8 + 4
    return data[:at] + struct.pack("<Q", 32) + data[at + 8 :]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], UnsupportedModel, "GGUFv1"),
        (lambda data: data[:4] + struct.pack("<I", 4) + data[8:], UnsupportedModel, "version 4"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], UnsupportedModel, "byte order"),
        (set_type(99), UnsupportedModel, "type 99"),
        (set_type(4), UnsupportedModel, "no more"),
        (move, NotAGGUF, "offset 32"),
    ],
    ids=["v1", "v4", "big-endian", "unknown type", "removed type", "wrong offset"],
)
def test_a_whole_file_is_not_called_cut_off(
    tmp_path: Path, configure: Configure, change: Callable[[bytes], bytes], error: type[ErllamaError], words: str
) -> None:
    """It has a reason of its own."""
    with pytest.raises(error, match=words):
        inspect(whole(tmp_path, change), configure)
