"""Where answers are kept by default, and requests that come too early, or are too much."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from helpers.served import served

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.cli.serve import with_responses
from erllama_py.serve.config.tables import Config, RuntimeTable
from erllama_py.serve.core.settings import ListenOpts

PATH = "/v1/responses"
ASK: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 4}


def test_a_command_keeps_answers_beside_what_it_computes() -> None:
    """Unless nothing is kept, or a file says where."""
    config = Config(models=(), runtime=RuntimeTable(home="h"))
    assert with_responses(config, given_cache=None).server.responses_directory == str(Path("h", "responses", "8080"))
    assert with_responses(config, given_cache="none") == config
    tiers = msgspec.structs.replace(config, tiers={"d": erllama.DiskTier("/k")})
    assert with_responses(tiers, given_cache=None).server == with_responses(config, given_cache=None).server
    memory = msgspec.structs.replace(config, tiers={"m": erllama.RamFileTier("/dev/shm/k")})
    assert with_responses(memory, given_cache=None) == memory
    assert with_responses(config, given_cache=None).server.files_directory == str(Path("h", "files", "8080"))
    own = msgspec.structs.replace(config, server=ListenOpts(responses_directory="mine", files_directory="my files"))
    assert with_responses(own, given_cache=None) == own


@pytest.mark.anyio
async def test_a_request_that_comes_too_early_is_told_to_come_again() -> None:
    """Before the runtime is open, by every endpoint that asks a model."""
    app = create_app(erllama.Runtime())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in (PATH, f"{PATH}/compact", f"{PATH}/input_tokens"):
            answer = await client.post(path, json=ASK)
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["message"]


@pytest.mark.anyio
async def test_what_is_too_much_is_refused() -> None:
    """A body that is too large, and a conversation that has become too long over its turns."""
    async with served(settings={"max_body_bytes": 2000, "max_messages": 3}) as at:
        answer = await at.client.post(PATH, json=ASK | {"input": "x" * 2000})
        assert answer.status_code == 413
        first = (await at.client.post(PATH, json=ASK)).json()
        answer = await at.client.post(PATH, json=ASK | {"previous_response_id": first["id"]})
        assert answer.status_code == 200
        answer = await at.client.post(PATH, json=ASK | {"previous_response_id": answer.json()["id"]})
        assert answer.status_code == 413
        assert answer.json()["error"]["param"] == "input"


@pytest.mark.anyio
async def test_two_turns_of_one_conversation_at_once_are_both_answered() -> None:
    """The session is a hint: the one that finds it busy does without."""
    async with served() as at:
        first = (await at.client.post(PATH, json=ASK)).json()
        for more in ({"previous_response_id": first["id"]}, {"prompt_cache_key": "k"}):
            answers = await asyncio.gather(
                *(at.client.post(PATH, json=ASK | more | {"stream": stream}) for stream in (False, True, False))
            )
            assert [answer.status_code for answer in answers] == [200, 200, 200]
