"""What others' judges of servers say of this one, on a real model."""

from __future__ import annotations

import pytest
from helpers.comply import complied
from helpers.listening import listening

import erllama_py as erllama
from erllama_py.serve import ServerOpts, create_app
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model]

CONFIG: erllama.ModelConfigDict = {"context_opts": {"n_ctx": 4096, "n_threads": 2, "n_seq_max": 2}}


async def test_chats_are_as_the_description_of_openai_has_them() -> None:
    """All nine tests pass; one of them is for models whose names are known to think."""
    async with erllama.Runtime() as runtime:
        await runtime.load_model("smollm2", {"model_path": fetch("smollm2"), **CONFIG})
        app = create_app(runtime, settings=ServerOpts(images="note"), aliases={"gpt-5": "smollm2"})
        async with listening(app) as address:
            results = await complied(f"{address}/v1", "openai-chat", "gpt-5")
    assert [(one["id"], one["errors"]) for one in results if "errors" in one] == []
    assert [one["status"] for one in results] == ["passed"] * 9
