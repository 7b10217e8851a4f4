"""`/v1/models` as Anthropic's own client sees it, on the path that it shares with OpenAI's."""

from __future__ import annotations

import anthropic
import pytest
from anthropic.types import ModelInfo
from helpers.claude import VERSION, asked
from helpers.served import served

from erllama_py.serve.anthropic.protocol import VERSION as HEADER


@pytest.mark.anyio
async def test_models_are_listed_page_by_page() -> None:
    """By all their names, in both directions."""
    names = [f"name-{number}" for number in range(5)]
    async with asked(aliases=dict.fromkeys(names, "tiny")) as client:
        found = [model async for model in client.models.list(limit=2)]
        assert [model.id for model in found] == ["tiny", *names]
        assert ModelInfo.model_validate_json(found[0].model_dump_json()).max_input_tokens == 2048
        before = await client.models.list(before_id="name-2", limit=2)
        assert ([model.id for model in before.data], before.has_more) == (["name-0", "name-1"], True)
        assert (before.first_id, before.last_id) == ("name-0", "name-1")
        assert (await client.models.retrieve("name-3")).id == "name-3"
        with pytest.raises(anthropic.NotFoundError):
            await client.models.retrieve("other")
        for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "other"}):
            with pytest.raises(anthropic.BadRequestError):
                await client.models.list(**wrong)


@pytest.mark.anyio
async def test_the_header_decides_whose_path_it_is() -> None:
    """Errors of paths that are not there have its shape too."""
    assert HEADER in VERSION
    async with served() as at:
        assert (await at.client.get("/v1/models")).json()["object"] == "list"
        listed = (await at.client.get("/v1/models", headers=VERSION)).json()
        assert (listed["data"][0]["type"], listed["has_more"]) == ("model", False)
        missing = await at.client.get("/v1/nothing", headers=VERSION)
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
        wrong = await at.client.get("/v1/messages", headers=VERSION)
        assert (wrong.status_code, wrong.json()["type"]) == (405, "error")
