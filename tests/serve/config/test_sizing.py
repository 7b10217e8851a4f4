"""How large a context is where nobody says: within the model's share of the memory, and as large as that allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_bert import tiny_bert
from helpers.tiny_gguf import KINDS, Kind, tiny_gguf
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve import create_app
from erllama_py.serve.config import Config, ServedModel, sized, with_sizes
from erllama_py.serve.config.sizing import (
    LEAST_BUDGET,
    LEAST_CELLS,
    MOST_CELLS,
    MOST_QUOTA,
    SEQUENCES,
    budget,
    choose_size,
    disk_quota,
)

GIB = 1 << 30


def cost_of(per_cell: int, per_sequence: int = 0) -> Any:
    def costs(n_seq_max: int, cells: Sequence[int]) -> list[int]:
        return [many * per_cell + n_seq_max * per_sequence for many in cells]

    return costs


@given(
    st.integers(0, 1 << 21), st.integers(0, 1 << 20), st.integers(0, 1 << 28), st.integers(1, 1 << 36),
    st.none() | st.integers(1, 1 << 20), st.none() | st.integers(1, 64),
)  # fmt: skip
def test_the_size_fits_or_is_the_smallest(
    trained: int, per_cell: int, per_sequence: int, room: int, n_ctx: int | None, n_seq_max: int | None
) -> None:
    """What was given stays; more than was trained for is never chosen; what costs too much is only the smallest."""
    costs = cost_of(per_cell, per_sequence)
    size = choose_size(trained, costs, room, n_ctx=n_ctx, n_seq_max=n_seq_max)
    assert size.nbytes == costs(size.n_seq_max, [size.n_ctx])[0]
    assert size.n_ctx == n_ctx if n_ctx is not None else size.n_ctx <= min(trained or LEAST_CELLS, MOST_CELLS)
    assert 1 <= size.n_seq_max <= size.n_ctx
    if n_seq_max is not None:
        assert size.n_seq_max <= n_seq_max
    if size.nbytes > room:
        assert n_ctx is not None or size.n_ctx < 2 * LEAST_CELLS
        assert size.n_seq_max == (min(n_seq_max, size.n_ctx) if n_seq_max else 1)


@pytest.mark.parametrize(
    ("trained", "per_cell", "per_sequence", "room", "expected"),
    [
        (8192, 23_040, 0, GIB, (SEQUENCES, 8192)),  # SmolLM2 has all that it was trained for
        (131_072, 131_072, 0, 4 * GIB, (SEQUENCES, 32_768)),  # 8 billion parameters in 4 GiB
        (1_048_576, 100, 0, 100 * GIB, (SEQUENCES, MOST_CELLS)),
        (131_072, 131_072, 0, 1, (1, 2048)),  # nothing fits: the load will say so
        (4096, 0, 100 << 20, 450 << 20, (4, 4096)),  # states of 100 MiB a sequence
        (512, 1000, 0, GIB, (SEQUENCES, 512)),
        (0, 1000, 0, GIB, (SEQUENCES, 2048)),  # a file that does not say
    ],
)
def test_sizes_suit_models_of_every_kind(
    trained: int, per_cell: int, per_sequence: int, room: int, expected: tuple[int, int]
) -> None:
    """As the guide says."""
    size = choose_size(trained, cost_of(per_cell, per_sequence), room)
    assert (size.n_seq_max, size.n_ctx) == expected


def test_the_budget_is_a_share_of_what_is_free_beside_the_weights() -> None:
    """For each model the same; never so little that nothing could be served."""
    assert budget(24 * GIB, 4 * GIB, 1) == 5 * GIB
    assert budget(24 * GIB, 4 * GIB, 5) == GIB
    assert budget(GIB, 4 * GIB, 1) == LEAST_BUDGET


def test_the_quota_is_a_share_of_the_disk_within_bounds() -> None:
    """A disk that is almost full is left alone."""
    assert disk_quota(100 * GIB) == 10 * GIB
    assert disk_quota(1000 * GIB) == MOST_QUOTA
    assert disk_quota(GIB) is None


def config_of(path: Path, **options: Any) -> Config:
    return Config(models=(ServedModel(name="m", options={"model_path": str(path), **options}),))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gets_what_it_was_trained_for(kind: Kind, tmp_path: Path) -> None:
    """And the bytes are those that llama.cpp would take."""
    (one,) = sized(config_of(tiny_gguf(kind, tmp_path)), available=8 * GIB)
    context = one.model.options["context_opts"]
    assert context == {"n_ctx": 4096, "n_seq_max": SEQUENCES}
    (told,) = erllama.inspect_model(
        one.model.options["model_path"], context_opts={"n_seq_max": SEQUENCES}, context_sizes=[4096]
    ).contexts
    assert one.context_bytes == told.cell_bytes + told.compute_bytes


def test_what_is_given_stays(tmp_path: Path) -> None:
    """Options of the file, and the number of sequences that a command asks for."""
    path = tiny_gguf("dense", tmp_path)
    (one,) = sized(config_of(path, context_opts={"n_ctx": 512, "type_k": "q8_0"}), sequences=1)
    assert one.model.options["context_opts"] == {"n_ctx": 512, "n_seq_max": 1, "type_k": "q8_0"}


def test_an_encoder_reads_a_text_in_one_batch(tmp_path: Path) -> None:
    """As long a text as it was trained for, and 512 tokens at least, for several texts."""
    (one,) = sized(config_of(tiny_bert(tmp_path)))
    assert one.model.options["context_opts"] == {"n_ctx": 512, "n_batch": 512, "n_seq_max": 1}


def test_a_stub_has_no_file() -> None:
    """It is left as it is."""
    model = ServedModel(name="m", options={"backend": "stub"})
    (one,) = sized(Config(models=(model,)))
    assert (one.model, one.file) == (model, None)


@pytest.mark.slow
@pytest.mark.anyio
async def test_an_application_of_a_configuration_has_its_sizes(tmp_path: Path) -> None:
    """As `erllama serve` has, also where another server mounts it."""
    app = create_app(config_of(tiny_gguf("dense", tmp_path)))
    async with app.running():
        (info,) = app.service.runtime.list_models()
        assert (info.context_size, info.n_seq_max) == (4096, SEQUENCES)


def test_no_file_is_looked_at_where_nothing_is_open() -> None:
    """So that a missing one is an error of the load, with all that it says."""
    config = config_of(Path("/nowhere/a.gguf"), context_opts={"n_ctx": 512, "n_seq_max": 2})
    assert with_sizes(config) is config
    with pytest.raises(erllama.ModelFileNotFound):
        with_sizes(config_of(Path("/nowhere/a.gguf")))
