"""Many requests at once with SmolLM2 and Gemma 3: a common beginning is computed once, and a request that finds no
cells waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

SYSTEM = (
    "You are a patient teacher. You answer in one short sentence, in plain words, and compare things with what a child "
    "can see or touch: a ball, a cup of water, a lamp, a bicycle, a garden. "
) * 12  # 550 tokens
QUESTIONS = ["What is rain?", "Why is grass green?", "What is a shadow?", "How do birds fly?", "What is ice?",
             "Why do we sleep?", "What is a magnet?", "What is wind?"]  # fmt: skip
LANDS = ["ice", "sand", "rivers", "mountains", "glass", "clouds"]
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 8}


def config(name: str, **context: Any) -> Any:
    sizes = {"n_ctx": 2048, "n_batch": 512, "n_threads": 2, "n_seq_max": 8, "flash_attn": False}
    return {"model_path": fetch(name), "context_opts": sizes | context}


async def asked(model: erllama.Model, questions: list[str]) -> list[list[int]]:
    """Prompts of one beginning, each with a question after it."""
    begin = await model.tokenize(SYSTEM)
    return [[*begin, *(await model.tokenize(f"\n{question}\n", add_bos=False))] for question in questions]


def alike(prompts: list[list[int]]) -> int:
    """How many tokens all of them begin with."""
    return next(index for index, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_eight_with_one_new_beginning_compute_it_once(name: str) -> None:
    """With cells shared (SmolLM2), or with the rows that the first one saves (Gemma 3, whose window shares none)."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config(name, n_ctx=8192 if name == "gemma3" else 2048))
        prompts = await asked(model, QUESTIONS)
        common = alike(prompts)
        first, *others = await asyncio.gather(*[model.complete(prompt, **GREEDY) for prompt in prompts])
        assert first.cache_hit_kind == "cold"
        assert first.stats.prefill_tokens == len(prompts[0])
        # A row ends at each multiple of 256 tokens, so of a common beginning of 550 the window's model shares 512.
        shared = common if name == "smollm2" else 512
        for prompt, done in zip(prompts[1:], others, strict=True):
            assert done.cache_hit_kind == ("live" if name == "smollm2" else "partial")
            assert done.stats.prefill_tokens <= len(prompt) - shared  # two questions may begin alike
            assert done.generated


async def test_a_request_that_finds_no_cells_is_parked_and_computes_nothing_again() -> None:
    """Six long replies of which two fit at a time: all are whole, and no token of them was prefilled twice."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config("smollm2", n_ctx=512, n_seq_max=6))
        prompts = [await model.tokenize(f"Once upon a time, in a land of {what}, there") for what in LANDS]
        done = await asyncio.gather(*[model.complete(p, temperature=0.0, response_tokens=200) for p in prompts])
        assert [len(one.generated) for one in done] == [200] * len(LANDS)
        assert sum(one.stats.parks for one in done) >= 3
        assert [one.stats.prefill_tokens for one in done] == [len(prompt) for prompt in prompts]
        # Batches of other sizes round differently, so a reply alone may diverge from these where two tokens are nearly
        # as likely. Each of these tokens is still what the model alone says to what comes before it, with few
        # exceptions.
        said = 0
        for prompt, one in zip(prompts, done, strict=True):
            for length in range(40, 200, 40):
                next_one = await model.complete([*prompt, *one.generated[:length]], temperature=0.0, response_tokens=1)
                said += next_one.generated == one.generated[length : length + 1]
        assert said >= 22, said  # of 24
