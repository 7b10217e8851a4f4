"""In which API's shape a request is refused that no endpoint has taken: by its path, and by a header of Anthropic's."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from erllama_py.serve.anthropic import protocol as anthropic
from erllama_py.serve.core.api import Api
from erllama_py.serve.ollama import protocol as ollama
from erllama_py.serve.openai import protocol as openai
from erllama_py.serve.responses import protocol as responses

_BELOW = (("/api", ollama.API), ("/v1/messages", anthropic.API), ("/v1/responses", responses.API))


def api_of(scope: Scope) -> Api:
    """The API that a request is meant for; OpenAI's where nothing says another."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))  # below where it is mounted
    for start, api in _BELOW:
        if path == start or path.startswith(f"{start}/"):
            return api
    return anthropic.API if anthropic.VERSION in Headers(scope=scope) else openai.API
