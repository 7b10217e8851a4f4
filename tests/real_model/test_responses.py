"""Open Responses over SmolLM2: conversations that go on over a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.open_responses import check, read_stream

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

PATH = "/v1/responses"
ASK: dict[str, Any] = {"model": "smol", "max_output_tokens": 24, "temperature": 0}
PATIENT = {"session_resume_wait_ms": 60_000}
LETTER = "The lighthouse stands on a hill above the harbour, and its keeper writes a letter every evening. " * 8
QUESTIONS = (LETTER + "Who writes?", "To whom?", "Where is that?")


@asynccontextmanager
async def served(tiers: Any = None, **given: Any) -> AsyncIterator[App]:
    """An application with SmolLM2."""
    saving: Any = {"tier": "disk", "tier_srv": "disk", "policy": PATIENT} if tiers else {}
    config: Any = {"model_path": fetch("smollm2"), "context_opts": {"n_ctx": 4096, "n_seq_max": 4}, **saving}
    async with erllama.Runtime(tiers=tiers or {}) as runtime:
        await runtime.load_model("smol", config)
        yield create_app(runtime, settings=ServerOpts(images="note"), **given)


async def test_a_conversation_goes_on_over_a_restart_and_computes_its_own_tokens_only(tmp_path: Path) -> None:
    """By the id of the last answer alone, streamed and whole."""
    tiers = {"disk": erllama.DiskTier(tmp_path / "rows", quota_bytes=1 << 30)}
    last: Any = None
    for number, question in enumerate(QUESTIONS):
        async with served(tiers, responses_directory=tmp_path / "answers") as app:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
                asked = ASK | {"input": question, "previous_response_id": last and last["id"], "stream": number == 1}
                answer = await client.post(PATH, json=asked)
                given = read_stream(answer.text)[-1]["response"] if number == 1 else answer.json()
                if last is not None:
                    reused = given["usage"]["input_tokens_details"]["cached_tokens"]
                    assert reused >= last["usage"]["total_tokens"] - 2, number
                last = check(given)
