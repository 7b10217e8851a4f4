"""Every async test runs on asyncio and, as one of the slow ones, on uvloop."""

from __future__ import annotations

import gc
import sys

import pytest
from hypothesis import settings

# `make quick` looks at a quarter of the examples of each property; `make test` at all that "ci" has.
settings.register_profile("quick", settings.get_profile("ci"), max_examples=25)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    backend: tuple[str, dict[str, bool]] = request.param
    return backend


def pytest_collection_finish() -> None:
    """Keep what imports and the collection made out of each later search for garbage; many tests ask for one."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same for what a file of tests has left, reports mostly."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Close what llama-cpp-python leaves open until the interpreter ends, which would be said behind the last line."""
    utils = sys.modules.get("llama_cpp._utils")
    for file in (getattr(utils, "outnull_file", None), getattr(utils, "errnull_file", None)):
        if file is not None:
            file.close()
