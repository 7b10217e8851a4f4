"""The model that a new build of llama.cpp is tried with: every type of weights, and sound numbers in each."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from erllama_py.engine.children.tiny_model import TYPES, write_model


@pytest.fixture
def reader(tmp_path: Path) -> gguf.GGUFReader:
    with (tmp_path / "tiny.gguf").open("wb") as file:
        write_model(file)
    return gguf.GGUFReader(tmp_path / "tiny.gguf")


def test_it_is_read_by_another_reader_and_has_each_type(reader: gguf.GGUFReader) -> None:
    """As the file format has it; norms are plain numbers."""
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if "norm" not in tensor.name}
    assert kinds == set(TYPES)
    assert {tensor.tensor_type.name for tensor in reader.tensors if "norm" in tensor.name} == {"F32"}


def test_its_weights_are_of_a_size_that_keeps_numbers_finite(reader: gguf.GGUFReader) -> None:
    """About a sixteenth, which is one over the root of the width; no two rows are the same."""
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(weights).all(), tensor.name
        if "norm" not in tensor.name:
            assert 0.01 < np.abs(weights).mean() < 0.2, tensor.name
            assert len(np.unique(weights, axis=0)) == len(weights), tensor.name


def test_it_is_the_same_each_time() -> None:
    """And small."""
    one, other = BytesIO(), BytesIO()
    write_model(one)
    write_model(other)
    assert one.getvalue() == other.getvalue()
    assert len(one.getvalue()) < 1 << 20
