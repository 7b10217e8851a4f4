"""Structures made to harm: each is refused or runs, and whatever else the model does goes on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.hostile import HOSTILE

import erllama_py as erllama

pytestmark = pytest.mark.anyio


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
async def test_other_requests_never_notice(backend: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """They give what they give alone, the model never restarts, and a hostile request ends as one request."""
    plain: dict[str, Any] = {"temperature": 0.0, "response_tokens": 12, "ignore_eos": True}
    async with loaded(backend, Path(tmp_path_factory.getbasetemp())) as model:
        alone = await model.complete("Once upon a time", **plain)
        for name, structure in HOSTILE.items():
            async with model.stream("Once upon a time", **plain) as events:
                with suppress(erllama.InvalidGrammar, erllama.SamplerFailed):
                    await model.complete(name, response_tokens=20, seed=1, options=structure)
                seen = [event async for event in events]
            assert isinstance(seen[-1], erllama.Done)
            assert seen[-1].completion.generated == alone.generated
        assert model.info.restarts == 0
