"""A model that replies with given texts, see `erllama_py.testing.Script`: for stories of thinking and of tool calls.

async with scripted("<think>\nhm</think>\n\nyes", controls=("<think>", "</think>")) as (runtime, model, script):
    await model.chat([…])
script.prompts  # what was asked, as text
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import erllama_py as erllama
from erllama_py.engine.stub import CHAT_TEMPLATE
from erllama_py.testing import Reply, Script

__all__ = ["Reply", "Script", "scripted"]


@asynccontextmanager
async def scripted(
    *replies: Reply, controls: Sequence[str] = (), words: Sequence[str] = (), template: str = CHAT_TEMPLATE,
    **config: Any,
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model, Script]]:  # fmt: skip
    """An open runtime, a model `m` that says the replies, and its script."""
    script = Script(*replies, controls=controls, words=words, template=template)
    fields: Any = {"backend": "stub", **config}
    async with erllama.Runtime(backend_factory=script.backend) as runtime:
        yield runtime, await runtime.load_model("m", fields), script
