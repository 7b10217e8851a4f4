"""The key that signs what a model thinks is a secret."""

from __future__ import annotations

import pytest
from helpers.scripted import scripted

from erllama_py.options.model import parse_model_config


@pytest.mark.parametrize("key", ["a secret of some length", b"a secret of some length"])
def test_a_signing_key_is_never_shown(key: str | bytes) -> None:
    """It is kept as bytes, and neither a repr nor rich has it."""
    config = parse_model_config({"backend": "stub", "thinking_signing_key": key})
    assert config.thinking_signing_key == b"a secret of some length"
    assert parse_model_config(config) == config
    assert "secret" not in repr(config) + str([config]) + str(list(config.__rich_repr__()))


@pytest.mark.anyio
async def test_what_is_known_of_a_model_has_no_key() -> None:
    """Nor has the tree."""
    async with scripted("x", thinking_signing_key="a secret") as (runtime, model, _script):
        assert model.info.config.thinking_signing_key is None
        assert "secret" not in f"{model.info}{runtime.tree()}{model!r}{runtime!r}"
