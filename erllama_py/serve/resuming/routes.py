"""`GET /v1/stream/{id}`, `DELETE /v1/stream/{id}`: a stream that lasts, taken up without its request, or stopped.

The id is that of `X-Conversation-Id`. The paths are those of llama-server, whose clients know them.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from erllama_py.serve.core.api import Api, json_response
from erllama_py.serve.core.endpoint import route
from erllama_py.serve.core.errors import error_body
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.readers import stream_key, taken_up
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.streams import SSE
from erllama_py.serve.core.taking_up import AFTER, after_of

API = Api("streams", error_body)
ONE = "/v1/stream/{conversation_id:path}"  # an id may have slashes


def routes(service: Service) -> list[Route]:
    """Beside the APIs that begin streams."""
    return [
        route(service, API, ONE, take_up, method="GET", gives=(SSE,)),
        route(service, API, ONE, stop, method="DELETE"),
    ]


async def take_up(exchange: Exchange) -> ASGIApp:
    """The events of a stream after `Last-Event-ID`, or after the number in the query's `after`; all of them without.

    A browser's `EventSource` comes again after the end, by itself: 204 tells it that there is no more.
    """
    asked = exchange.request
    had = after_of(asked.headers.get(AFTER))
    param = "after" if had is None else AFTER
    after = after_of(asked.query_params.get("after"), param) if had is None else had
    reader = await taken_up(exchange, _key(exchange), None, after, param)
    assert reader is not None  # a request without a body begins nothing
    return Response(status_code=204) if had and reader.has_all else reader


async def stop(exchange: Exchange) -> ASGIApp:
    """End a stream with what it has, and forget it. The answer is the same where there is none."""
    exchange.service.lasting.stop(_key(exchange))
    name = exchange.request.path_params["conversation_id"]
    return json_response({"id": name, "object": "stream", "deleted": True})


def _key(exchange: Exchange) -> tuple[str, str]:
    return stream_key(exchange, str(exchange.request.path_params["conversation_id"]))
