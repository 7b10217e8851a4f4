"""`GET /erllama/tree`: the supervision tree as it is now, as JSON or, by `Accept: text/plain`, drawn."""

from __future__ import annotations

import dataclasses

from starlette.responses import Response
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.operations.protocol import TEXT, prefers_text, without_folders


def shown(node: erllama.TreeNode) -> erllama.TreeNode:
    """A tree whose texts name no folder of the machine."""
    return dataclasses.replace(
        node,
        last_failure=None if node.last_failure is None else without_folders(node.last_failure),
        detail=None if node.detail is None else without_folders(node.detail),
        children=tuple(map(shown, node.children)),
    )


async def tree(exchange: Exchange) -> ASGIApp:
    """The supervision tree: what runs, since when, how often it was restarted, and why the last time."""
    exchange.check_operator()
    root = shown(exchange.service.runtime.tree())
    if prefers_text(exchange.request.headers.get("accept", "")):
        return Response(f"{root}\n", media_type=TEXT)
    return json_response(root)
