"""What many stories begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from helpers.both_backends import BACKENDS, loaded

import erllama_py as erllama


@pytest.fixture(params=BACKENDS)
async def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[erllama.Model]:
    """A model that is loaded, on each backend in turn."""
    async with loaded(request.param, tmp_path_factory.getbasetemp()) as one:
        yield one
