"""What others' judges of servers say of this one, on a real model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from helpers.comply import complied
from helpers.listening import listening

import erllama_py as erllama
from erllama_py.serve import ServerOpts, create_app
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model]

CONFIG: erllama.ModelConfigDict = {"context_opts": {"n_ctx": 4096, "n_threads": 2, "n_seq_max": 2}}


IM_END = 2  # SmolLM2's token that ends a turn
# The names of models that are known to think, so that no test is skipped.
SUITES = {"openai-chat": ("gpt-5", 9), "anthropic": ("claude-sonnet-4", 9), "open-responses": ("gpt-5", 13)}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites wait for replies that end, and a small model goes on and on: it is ended after a few words."""
    options_of = Exchange.options

    def options(exchange: Exchange, given: Mapping[str, Any]) -> dict[str, Any]:
        found = options_of(exchange, given)
        ends = {} if found.keys() & {"tools", "json_schema"} else {"min_tokens": 8, "logit_bias": {IM_END: 100.0}}
        return {"temperature": 0.0, **ends, **found}

    monkeypatch.setattr(Exchange, "options", options)


@pytest.mark.parametrize("suite", SUITES)
async def test_answers_are_as_the_published_descriptions_have_them(suite: str) -> None:
    """All tests of llm-comply pass; pictures are told to the model as a note, as a setting says."""
    name, tests = SUITES[suite]
    async with erllama.Runtime() as runtime:
        await runtime.load_model("smollm2", {"model_path": fetch("smollm2"), **CONFIG})
        app = create_app(runtime, settings=ServerOpts(images="note"), aliases={name: "smollm2"})
        async with listening(app) as address:
            results = await complied(f"{address}/v1", suite, name)
    assert [(one["id"], one["errors"]) for one in results if "errors" in one] == []
    assert [one["status"] for one in results] == ["passed"] * tests
