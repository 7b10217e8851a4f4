"""What is there for clients that look for a server, and what Ollama serves and is not served here."""

from __future__ import annotations

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.streams import NDJSON
from erllama_py.serve.ollama.lines import line
from erllama_py.serve.ollama.protocol import NameRequest

RUNNING = "Ollama is running"  # to the letter: programs compare it
SET_HERE = (
    "the models of this server are those of its command and of its configuration, which `erllama reload` reads again"
)


async def root(exchange: Exchange) -> ASGIApp:
    """`GET /` and `HEAD /`: whether a server is here. Browsers, which ask for HTML, get the page; without one they
    are told which."""
    if "text/html" in exchange.request.headers.get("accept", ""):
        return PlainTextResponse("erllama_py is running. Its APIs are those of OpenAI, Anthropic and Ollama.\n")
    return PlainTextResponse(RUNNING)


async def pull(exchange: Exchange) -> ASGIApp:
    """Clients pull what they are about to use: done, where it is served. Raises `Problem` where it is not."""
    request = await exchange.body(NameRequest)
    try:
        exchange.info(request.model or request.name)
    except Problem as problem:
        if problem.kind == "not_found":
            problem.message += f". Nothing is fetched here: {SET_HERE}"
        raise
    if request.stream is False:
        return json_response({"status": "success"})
    return Response(line({"status": "pulling manifest"}) + line({"status": "success"}), media_type=NDJSON)


async def refused(exchange: Exchange) -> ASGIApp:
    """Making, copying, deleting and publishing models."""
    raise Problem("forbidden", f"{exchange.route} is not served here: {SET_HERE}", code="not_served")


async def unknown(exchange: Exchange) -> ASGIApp:
    """Anything else below `/api`."""
    method, path = exchange.request.method, exchange.request.url.path[:200]
    raise Problem("not_found", f"{method} {path} is not served here", code="unknown_endpoint")
