"""Models in several files: all parts count, and a part that is missing, cut or foreign is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers.tiny_gguf import KINDS, Kind, split_gguf, tiny_gguf

from erllama_py.engine.backend import FileFacts
from erllama_py.engine.llama import LlamaBackend
from erllama_py.errors import (
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


def said(facts: FileFacts) -> dict[str, object]:
    """Everything but the files."""
    return {name: getattr(facts, name) for name in facts.__struct_fields__ if name != "files"}


@pytest.mark.parametrize("metadata_apart", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_split_model_says_what_the_whole_one_says(
    tmp_path: Path, models: Path, configure: Configure, kind: Kind, metadata_apart: bool
) -> None:
    """Also where the first file has no tensors. Sizes are those of all files, as an independent reader has them."""
    parts = split_gguf(kind, tmp_path, metadata_apart=metadata_apart)
    facts = inspect(parts[0], configure)
    assert said(facts) == said(inspect(tiny_gguf(kind, models), configure))
    assert len(parts) == (4 if metadata_apart else 3)
    assert [file.path for file in facts.files] == [str(part) for part in parts]
    assert facts.file_size == sum(part.stat().st_size for part in parts)
    for file in facts.files:
        tensors = gguf.GGUFReader(file.path).tensors
        if tensors:
            assert (file.metadata_size, file.first_tensor_size) == (tensors[0].data_offset, tensors[0].n_bytes)
    assert facts.metadata_size == sum(file.metadata_size for file in facts.files)


def test_factors_for_long_contexts_and_types_are_looked_for_in_all_parts(tmp_path: Path, configure: Configure) -> None:
    """The first part may have no tensors at all."""
    writer = gguf.GGUFWriter(tmp_path / "long.gguf", "phi3", split_max_tensors=2, small_first_shard=True)
    writer.add_context_length(131072)
    for name in ("a", "b", "rope_factors_long"):
        writer.add_tensor(f"{name}.weight", np.ones(16, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    facts = inspect(tmp_path / "long-00001-of-00003.gguf", configure)
    assert (facts.long_rope_above, facts.quant_type, facts.quant_bits) == (131072, "f16", 16)


def test_llama_cpp_loads_the_files_that_are_counted(tmp_path: Path, configure: Configure) -> None:
    """Given the first, it finds the others where we do."""
    backend = LlamaBackend("tiny", configure(split_gguf("dense", tmp_path)[0]))
    backend.inspect()
    assert backend.load(lambda _: True).n_layer == 2
    backend.close()


@pytest.mark.parametrize("place", [1, 2])
def test_a_part_that_is_missing_or_broken_is_named(tmp_path: Path, configure: Configure, place: int) -> None:
    """With the error that a single file would have."""
    parts = split_gguf("dense", tmp_path)
    whole = parts[place].read_bytes()
    for content, error in [
        (whole[:-100], TruncatedGGUF), (whole[:200], TruncatedGGUF), (b"GGML" + whole[4:], NotAGGUF),
        (None, ModelFileNotFound),
    ]:  # fmt: skip
        parts[place].unlink() if content is None else parts[place].write_bytes(content)
        with pytest.raises(error) as caught:
            inspect(parts[0], configure)
        assert caught.value.model_path == str(parts[place])


def test_a_model_is_loaded_by_its_first_part(tmp_path: Path, configure: Configure) -> None:
    """llama.cpp takes no other; the error says so instead of missing an architecture."""
    with pytest.raises(UnsupportedModel, match="not the first of its 3 parts"):
        inspect(split_gguf("dense", tmp_path)[1], configure)


def test_parts_under_other_names_are_refused(tmp_path: Path, configure: Configure) -> None:
    """llama.cpp finds the others by the first one's name, so it must have the form that names have."""
    first = split_gguf("dense", tmp_path)[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(UnsupportedModel, match=r"-00001-of-00003\.gguf"):
        inspect(first, configure)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"split.no\2\0\0\0\1\0", b"split.no\2\0\0\0\2\0"),  # another part
        (b"split.no\2\0\0\0", b"split.no\3\0\0\0"),  # i16: reading it as u16 would end the process
        (b"split.no", b"split.on"),
    ],
)
def test_a_part_that_is_another_one_is_refused(tmp_path: Path, configure: Configure, old: bytes, new: bytes) -> None:
    """Its number must be that of its name."""
    parts = split_gguf("dense", tmp_path)
    whole = parts[1].read_bytes()
    assert old in whole
    parts[1].write_bytes(whole.replace(old, new))
    with pytest.raises(UnsupportedModel, match="not part 2") as caught:
        inspect(parts[0], configure)
    assert caught.value.model_path == str(parts[1])


@pytest.mark.parametrize("place", [0, 2])
def test_a_file_that_changes_before_its_weights_are_in_fails_the_load(
    tmp_path: Path, configure: Configure, place: int
) -> None:
    """Any of the parts: what was fingerprinted is not what was loaded. Nothing stays loaded."""
    parts, other = split_gguf("dense", tmp_path / "a"), split_gguf("dense", tmp_path / "b", other_end=True)
    backend = LlamaBackend("tiny", configure(parts[0]))
    backend.inspect()

    def swap(_: float) -> bool:
        if other[place].exists():
            other[place].replace(parts[place])
        return True

    with pytest.raises(ModelLoadError, match="changed while it was being loaded") as caught:
        backend.load(swap)
    assert caught.value.model_path == str(parts[place])
    with pytest.raises(ModelNotLoaded):
        backend.positions(0)
