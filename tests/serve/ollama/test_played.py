"""What user interfaces and editors ask of Ollama, played: Open WebUI, Home Assistant, VS Code, Continue, Zed.

The requests are those that their sources make; what is checked is what they read of the answers.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
from helpers.listening import listening
from helpers.served import events, lines, served, served_script
from ollama import AsyncClient, Message

CALL = '<tool_call>\n{"name": "HassTurnOn", "arguments": {"name": "lamp"}}\n</tool_call>'
TURN_ON = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": []},
        "description": "Turns on a device",
    },
}
BEARER = {"authorization": "Bearer sk-anything", "content-type": "application/json"}


@pytest.mark.anyio
async def test_open_webui_connects() -> None:
    """It asks for the version, and compares it; then for what there is and what is loaded, on the side of both APIs."""
    async with served() as at:
        version = (await at.client.get("/api/version", headers=BEARER)).json()["version"]
        assert tuple(map(int, re.sub(r"^v|-.*", "", version).split("."))) > (0, 6, 4)
        models = (await at.client.get("/api/tags", headers=BEARER)).json()["models"]
        loaded = (await at.client.get("/api/ps", headers=BEARER)).json()["models"]
        expires = {one["name"]: datetime.fromisoformat(one["expires_at"]) for one in loaded}
        assert all(expires[one["name"]].timestamp() > 0 and one["model"] == one["name"] for one in models)
        assert [one["id"] for one in (await at.client.get("/v1/models", headers=BEARER)).json()["data"]] == ["tiny"]


@pytest.mark.anyio
async def test_open_webui_talks() -> None:
    """A stream for the reply; whole ones for the title and the tags; vectors for documents; and at last it unloads."""
    async with served() as at:
        ask: dict[str, Any] = {
            "model": "tiny:latest", "messages": [{"role": "user", "content": "hello"}], "stream": True,
            "options": {"temperature": 0.7, "num_ctx": 4096, "num_predict": 16, "stop": [], "seed": 0},
            "keep_alive": "5m", "metadata": {"chat_id": "x"},
        }  # fmt: skip
        last = lines((await at.client.post("/api/chat", json=ask, headers=BEARER)).text)[-1]
        rates = last["eval_count"] / (last["eval_duration"] / 1e9), last["total_duration"], last["load_duration"]
        assert all(one > 0 for one in rates)
        title = ask | {"stream": False, "options": {"num_predict": 8}}
        assert "content" in (await at.client.post("/api/chat", json=title)).json()["message"]
        document = {"model": "tiny:latest", "input": ["one", "two"], "truncate": True}
        assert len((await at.client.post("/api/embed", json=document)).json()["embeddings"]) == 2
        unload = {"model": "tiny:latest", "keep_alive": 0, "prompt": ""}
        assert (await at.client.post("/api/generate", json=unload)).json()["done"]


@pytest.mark.slow
@pytest.mark.anyio
async def test_home_assistant_turns_the_lamp_on() -> None:
    """By a stream with tools; results have no name and no id there, and thoughts are off."""
    async with (
        served_script(CALL, "The lamp is on.") as at,
        listening(at.app) as address,
        AsyncClient(address) as client,
    ):
        assert [one["model"] for one in (await client.list())["models"]] == ["tiny:latest"]
        messages: list[Any] = [
            Message(role="system", content="You are a voice assistant."),
            Message(role="user", content="turn on the lamp"),
        ]
        given: Any = {"keep_alive": -1, "options": {"num_ctx": 8192}, "think": False, "format": None, "stream": True}
        calls: list[Any] = []
        async for piece in await client.chat("tiny:latest", messages, tools=[TURN_ON], **given):
            calls += piece["message"].get("tool_calls") or ()
        assert [(one["function"]["name"], one["function"]["arguments"]) for one in calls] == [
            ("HassTurnOn", {"name": "lamp"})
        ]
        messages += [
            Message(role="assistant", content="", tool_calls=calls),
            Message(role="tool", content='{"data": "done", "error": null}'),
        ]
        pieces = [piece async for piece in await client.chat("tiny:latest", messages, tools=[TURN_ON], **given)]
        assert "".join(piece["message"]["content"] for piece in pieces) == "The lamp is on."
        assert '{"data": "done", "error": null}' in at.script.prompts[-1]


@pytest.mark.anyio
async def test_vs_code_takes_models_from_here_to_openai_s_api() -> None:
    """It wants numbers in the version, capabilities and a context in `show`, and chats at `/v1` under the same name."""
    async with served() as at:
        version = (await at.client.get("/api/version")).json()["version"]
        assert [int(part) for part in version.split(".")] >= [0, 6, 4]
        (model,) = (await at.client.get("/api/tags")).json()["models"]
        shown = (await at.client.post("/api/show", json={"model": model["model"]})).json()
        info = shown["model_info"]
        assert "tools" in shown["capabilities"]
        assert info[f"{info['general.architecture']}.context_length"] == 2048
        assert info["general.basename"] == "tiny"
        ask = {
            "model": model["model"], "messages": [{"role": "user", "content": "hello"}], "stream": True,
            "max_tokens": 4, "stream_options": {"include_usage": True},
        }  # fmt: skip
        assert events((await at.client.post("/v1/chat/completions", json=ask)).text)[-1] == "[DONE]"


@pytest.mark.anyio
async def test_continue_reads_parameters_line_by_line() -> None:
    """A line that is none would end its reading. Text to complete comes raw, with whole numbers of any kind."""
    async with served() as at:
        shown = (await at.client.post("/api/show", json={"name": "tiny"})).json()
        read = [re.match(r'^(\S+)\s+((?:".*")|\S+)$', line) for line in shown["parameters"].split("\n")]
        assert [one and one.groups() for one in read] == [("num_ctx", "2048")]
        ask = {
            "model": "tiny", "prompt": "def add(a, b):", "raw": True, "keep_alive": 1800, "stream": True,
            "options": {"temperature": 0.01, "num_predict": 8, "stop": ["\n\n"], "num_ctx": 2048, "use_mmap": True},
        }  # fmt: skip
        assert all("response" in one for one in lines((await at.client.post("/api/generate", json=ask)).text))


@pytest.mark.anyio
async def test_zed_reads_lists_with_all_their_fields() -> None:
    """And sends nulls and empty lists for what it does not say."""
    async with served_script("One.", CALL) as at:
        (listed,) = (await at.client.get("/api/tags")).json()["models"]
        assert {"name", "modified_at", "size", "digest", "details"} <= set(listed)
        assert {"format", "family", "families", "parameter_size", "quantization_level"} <= set(listed["details"])
        ask: dict[str, Any] = {
            "model": "tiny:latest", "stream": True, "keep_alive": -1, "tools": [], "think": None,
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hi", "tool_calls": None, "thinking": None},
                {"role": "user", "content": "count"},
            ],
            "options": {"num_ctx": 16384, "num_predict": None, "stop": [], "temperature": 1.0, "top_p": None},
        }  # fmt: skip
        pieces = lines((await at.client.post("/api/chat", json=ask)).text)
        assert "".join(one["message"]["content"] for one in pieces) == "One."
        assert all({"model", "created_at", "message", "done"} <= set(one) for one in pieces)
        called = lines((await at.client.post("/api/chat", json=ask | {"tools": [TURN_ON]})).text)[0]["message"]
        assert (called["role"], called["content"]) == ("assistant", "")
        assert called["tool_calls"][0]["id"]


@pytest.mark.anyio
async def test_the_command_line_of_ollama() -> None:
    """`ollama run`: is somebody there, is the model there, load it, talk. `list` and `ps` parse all their times."""
    async with served() as at:
        assert (await at.client.head("/")).status_code == 200
        shown = (await at.client.post("/api/show", json={"model": "tiny", "name": "tiny"})).json()
        assert {"details", "model_info", "capabilities", "modified_at", "parameters"} <= set(shown)
        load = {"model": "tiny", "prompt": "", "keep_alive": "5m0s", "options": {}}
        assert (await at.client.post("/api/generate", json=load)).json()["done_reason"] == "load"
        ask = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "format": "", "think": None}
        last = lines((await at.client.post("/api/chat", json=ask | {"options": {"num_predict": 2}})).text)[-1]
        times = [last["created_at"], shown["modified_at"]]
        for path in ("tags", "ps"):
            for one in (await at.client.get(f"/api/{path}")).json()["models"]:
                times.append(one.get("modified_at") or one["expires_at"])
        assert all(datetime.fromisoformat(time).utcoffset() is not None for time in times)
