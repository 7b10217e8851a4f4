"""A session with SmolLM2: five turns whose tokens no rendering would give, and none of them is computed twice."""

from __future__ import annotations

import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

QUESTIONS = ["Tell me of a lighthouse.", "Who keeps it?", "What is his name?", "Is he old?", "Does he sing?"]


async def test_five_turns_lose_no_token() -> None:
    """Each prompt begins with all that was held, and what was held is not computed again.

    The replies are drawn wildly and cut short, so that their text makes other tokens than those that were drawn.
    """
    rendered_alike = 0
    async with erllama.Runtime() as runtime:
        config: erllama.ModelConfigDict = {
            "model_path": fetch("smollm2"),
            "context_opts": {"n_ctx": 1024, "n_seq_max": 1, "n_threads": 2},
        }
        model = await runtime.load_model("m", config)
        async with model.session(messages=[{"role": "system", "content": "You answer briefly."}]) as session:
            held: list[int] = []
            committed = 0
            for turn, question in enumerate(QUESTIONS):
                messages = [*session.messages, {"role": "user", "content": question}]
                rendered = await model.apply_chat_template(messages)
                done = await session.chat(
                    question, response_tokens=24, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0, seed=turn
                )
                assert session.exact
                assert session.tokens[: len(held)] == held
                assert done.cache_delta.read >= committed
                assert done.stats.prefill_tokens <= done.prompt_tokens - committed
                rendered_alike += rendered[: len(held)] == held
                held, committed = session.tokens, done.committed_tokens
                assert committed >= len(held) - 1
    assert rendered_alike < len(QUESTIONS)


async def test_the_replies_to_a_session_are_those_to_its_rendering() -> None:
    """Where the text makes the same tokens, it is the same conversation: greedy replies are alike."""
    async with erllama.Runtime() as runtime:
        config: erllama.ModelConfigDict = {
            "model_path": fetch("smollm2"),
            "context_opts": {"n_ctx": 1024, "n_seq_max": 1, "n_threads": 2},
        }
        model = await runtime.load_model("m", config)
        async with model.session() as session:
            for question in QUESTIONS[:3]:
                prompt = await model.apply_chat_template([*session.messages, {"role": "user", "content": question}])
                done = await session.chat(question, response_tokens=40, temperature=0.0)
                assert session.tokens[: done.prompt_tokens] == prompt
