"""What no endpoint has taken is refused in the shape of the API that it was meant for."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.served import served

from erllama_py.serve.access import AccessOpts


def openai(body: Any) -> bool:
    return set(body["error"]) == {"message", "type", "param", "code"}


def anthropic(body: Any) -> bool:
    return body["type"] == "error" and set(body["error"]) == {"type", "message"}


def ollama(body: Any) -> bool:
    return isinstance(body["error"], str)


PATHS = [
    ("/api/nothing", {}, ollama),
    ("/v1/messages/nothing", {}, anthropic),
    ("/v1/nothing", {"anthropic-version": "2023-06-01"}, anthropic),
    ("/v1/responses/a/nothing", {}, openai),
    ("/v1/nothing", {}, openai),
    ("/apix", {}, openai),
    ("/", {}, openai),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "headers", "shaped"), PATHS)
async def test_a_refusal_has_the_shape_of_its_api(path: str, headers: dict[str, str], shaped: Any) -> None:
    """Where there is nothing, where the method is another, and at the door."""
    async with served(access=AccessOpts()) as at:
        answer = await at.client.delete(path, headers=headers)
        assert answer.status_code in (404, 405)
        assert shaped(answer.json())
        answer = await at.client.post(path, headers={**headers, "host": "evil.example"})
        assert answer.status_code == 403
        assert shaped(answer.json())
