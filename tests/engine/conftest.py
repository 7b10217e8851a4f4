"""What the engine's tests share: the folder of tiny models and backends over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.backends import MEMORY, Subject, make_subject
from helpers.draws import Draws
from helpers.fingerprints import CONTENT
from helpers.tiny_gguf import KINDS, tiny_gguf
from helpers.ways_to_draw import SIZES

from erllama_py.engine.backend import Backend, ModelFacts
from erllama_py.engine.llama.native import Library, library
from erllama_py.engine.llama.weights import load_model
from erllama_py.options.model import ModelConfig
from erllama_py.serve.models import fetch


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `tiny_gguf` and `broken_gguf`, one for the whole run."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real model, which `make test` has fetched."""
    return fetch("smollm2")


@pytest.fixture(scope="session")
def configure() -> Any:
    """`configure(path, n_ctx=…, model_opts={…})`: a configuration with all sizes and threads filled in."""

    def config(path: Path | None, *, model_opts: dict[str, Any] | None = None, **context: Any) -> ModelConfig:
        sizes = {"n_ctx": 512, "n_batch": 512, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1, "n_seq_max": 4}
        fields = {
            "backend": "llama",
            "model_path": str(path),
            "model_opts": model_opts or {},
            "context_opts": sizes | context,
        }
        return msgspec.convert(fields, ModelConfig)

    return config


@pytest.fixture(scope="module", params=[f"{backend}-{kind}" for backend in ("llama", "stub") for kind in KINDS])
def subject(request: pytest.FixtureRequest, models: Path) -> Subject:
    """Name of the backend, its kind of memory, and a function that makes a new one."""
    name, kind = request.param.split("-")

    def make(model_opts: dict[str, Any] | None = None, **context: Any) -> Backend:
        return make_subject(name, kind, models, model_opts, **context)

    return name, MEMORY[kind], make


@pytest.fixture
def backend(subject: Subject) -> Iterator[Backend]:
    """A loaded backend of its own for one test."""
    loaded = subject[2]()
    loaded.load(lambda _done: True)
    yield loaded
    loaded.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file that the tests of fingerprints are about."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """The folder of remembered fingerprints; it does not exist yet."""
    return tmp_path / "home" / "fingerprints"


@pytest.fixture(scope="module")
def words(models: Path, configure: Callable[..., ModelConfig]) -> Iterator[Any]:
    """The `llama_vocab *` of a tiny model."""
    lib, path = library(), tiny_gguf("dense", models)
    model = load_model(lib, str(path), configure(path, model_opts={"vocab_only": True}), "tiny", lambda _: True)
    yield lib.c.llama_model_get_vocab(model)
    lib.c.llama_model_free(model)


@pytest.fixture(scope="module")
def draws(words: Any) -> dict[int, Draws]:
    """By the size of the vocabulary."""
    lib: Library = library()
    return {n_vocab: Draws(lib, n_vocab, words) for n_vocab in SIZES}


@pytest.fixture(scope="module")
def engine(subject: Subject) -> Iterator[tuple[Backend, ModelFacts]]:
    """A loaded backend, emptied for each life."""
    backend = subject[2]()
    facts = backend.load(lambda _done: True)
    yield backend, facts
    backend.close()
