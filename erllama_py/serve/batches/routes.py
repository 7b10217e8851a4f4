"""The routes of files and batches, and what is behind them."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from erllama_py.serve.batches.asking import Endpoints
from erllama_py.serve.batches.disk import Disk
from erllama_py.serve.batches.files import Files
from erllama_py.serve.batches.lines import Bounds
from erllama_py.serve.batches.manager import Batches, Held
from erllama_py.serve.batches.protocol import API, BatchRequest, page
from erllama_py.serve.batches.running import Means
from erllama_py.serve.batches.shelf import FileFacts, Quota
from erllama_py.serve.batches.slots import Slots
from erllama_py.serve.batches.uploads import Uploads
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.endpoint import Endpoint, route
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.settings import ServerOpts

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank")
"""The endpoints that lines can name."""
AROUND = 1 << 16  # bytes that a line has beside its body
BATCH, FILE = "/v1/batches/{batch_id}", "/v1/files/{file_id}"
LISTED, MOST_LISTED = 20, 100
BYTES = "application/octet-stream"


def endpoints_of(service: Service, routes: Sequence[BaseRoute]) -> Endpoints:
    """The endpoints among these that lines can name."""
    known = {
        one.path: one.endpoint
        for one in routes
        if isinstance(one, Route) and one.path in URLS and isinstance(one.endpoint, Endpoint)
    }
    return Endpoints(service, known)


def means_of(service: Service, endpoints: Endpoints, disk: Disk) -> Means:
    """What batches are worked on with."""

    def width() -> int:
        settings = service.settings
        return min(settings.batch_concurrency, max(1, settings.max_open // 2))  # the rest is for live requests

    return Means(
        disk=disk, bounds=lambda: Bounds(service.settings.max_batch_lines, service.settings.max_body_bytes + AROUND),
        width=width, slots=Slots(width), known=endpoints.__contains__, counts=service.batches,
        draining=lambda: service.open.draining,
    )  # fmt: skip


def quota_of(settings: ServerOpts) -> Quota:
    """What a tenant may keep."""
    return Quota(settings.max_files, settings.max_files_bytes, settings.max_file_bytes)


class Room:
    """Files and batches of one application, and their routes."""

    def __init__(self, service: Service, among: Sequence[BaseRoute], directory: str | PathLike[str] | None) -> None:
        disk, endpoints = Disk(), endpoints_of(service, among)
        files = Files(None if directory is None else Path(directory), lambda: quota_of(service.settings), disk)
        means = means_of(service, endpoints, disk)
        self.batches = Batches(files, endpoints, means, service.batches, lambda: service.settings.max_batches)
        self._uploads = Uploads(files, self.batches.open)
        self._service = service

    def routes(self) -> list[Route]:
        """Below `/v1/files` and `/v1/batches`."""
        service, files, about = self._service, self._uploads, {200: FileFacts}
        return [
            route(service, API, "/v1/files", files.upload, answers=about),
            route(service, API, "/v1/files", files.list, method="GET"),
            route(service, API, FILE, files.show, method="GET", answers=about),
            route(service, API, FILE, files.delete, method="DELETE"),
            route(service, API, FILE + "/content", files.content, method="GET", gives=(BYTES,)),
            route(service, API, "/v1/batches", self.create, takes=BatchRequest),
            route(service, API, "/v1/batches", self.list, method="GET"),
            route(service, API, BATCH, self.show, method="GET"),
            route(service, API, BATCH + "/cancel", self.cancel),
        ]

    async def create(self, exchange: Exchange) -> ASGIApp:
        """`POST /v1/batches`: a file of requests, to be answered in their own time."""
        request = await exchange.body(BatchRequest)
        await self.batches.open()
        made = await self.batches.create(exchange.tenant, request)
        exchange.facts["batch"] = made["id"]
        return json_response(made, headers={"x-request-id": exchange.id})

    async def list(self, exchange: Exchange) -> ASGIApp:
        """`GET /v1/batches`: the newest first."""
        await self.batches.open()
        known = self.batches.list(exchange.tenant)
        return json_response(page(known, exchange, Held.shown, limit=LISTED, most=MOST_LISTED))

    async def show(self, exchange: Exchange) -> ASGIApp:
        """`GET /v1/batches/{id}`: how far a batch is."""
        await self.batches.open()
        return json_response(self.batches.show(exchange.tenant, exchange.request.path_params["batch_id"]))

    async def cancel(self, exchange: Exchange) -> ASGIApp:
        """`POST /v1/batches/{id}/cancel`: it ends with the lines that are answered."""
        await self.batches.open()
        return json_response(await self.batches.cancel(exchange.tenant, exchange.request.path_params["batch_id"]))
