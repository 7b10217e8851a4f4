"""Every async test runs on asyncio and, as one of the slow ones, on uvloop."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    backend: tuple[str, dict[str, bool]] = request.param
    return backend


def pytest_unconfigure() -> None:
    """Close what llama-cpp-python leaves open until the interpreter ends, which would be said behind the last line."""
    utils = sys.modules.get("llama_cpp._utils")
    for file in (getattr(utils, "outnull_file", None), getattr(utils, "errnull_file", None)):
        if file is not None:
            file.close()
