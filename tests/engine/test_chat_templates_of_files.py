"""The chat templates that a GGUF brings."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFWriter
from helpers import tiny_gguf

import erllama_py as erllama

pytestmark = pytest.mark.anyio

NAMED = [
    {
        "name": "tool_use",
        "template": "tools:{% for t in tools %}{{ t.function.name }}{% endfor %}{{ messages[0].content }}",
    },
    {"name": "rag", "template": "rag:{{ messages[0].content }}"},
    {"name": "default", "template": "default:{{ messages[0].content }}"},
]


@pytest.mark.slow
async def test_named_templates_are_found_and_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tool_use` where there are tools, the default elsewhere, any by its name."""
    add = GGUFWriter.add_chat_template
    monkeypatch.setattr(GGUFWriter, "add_chat_template", lambda writer, _: add(writer, NAMED))
    path = tiny_gguf.tiny_gguf("dense", tmp_path)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("one", {"model_path": path, "context_opts": {"n_ctx": 64}})
        hello, tools = [{"role": "user", "content": "hi"}], [{"name": "clock"}]

        async def text(**asked: object) -> str:
            return await model.detokenize(await model.apply_chat_template(hello, **asked))  # type: ignore[arg-type]  # any

        assert await text() == "default:hi"
        assert await text(tools=tools) == "tools:clockhi"
        assert await text(chat_template="rag") == "rag:hi"
        assert await text(tools=tools, chat_template="tool_use") == "tools:clockhi"
        with pytest.raises(erllama.ChatTemplateError, match="takes none"):
            await text(tools=tools, chat_template="rag")
        with pytest.raises(erllama.ChatTemplateError, match="no template named 'tool'; there are"):
            await text(chat_template="tool")
