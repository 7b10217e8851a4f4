"""The endpoints of files: `POST`, `GET /v1/files`, and one of them by its id, its content, its end.

A file goes to the disk as it comes, and is not there before all of it is.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from erllama_py.serve.batches.files import Files, Incoming
from erllama_py.serve.batches.forms import BadForm, Form
from erllama_py.serve.batches.protocol import ExpiresAfter, page
from erllama_py.serve.batches.shelf import FileFacts
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange, Gone
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.tenants import tenant_key

PURPOSE = "batch"
MOST_LISTED = 10_000  # and as many where nobody says, as in OpenAI's API
GRANTED = 1 << 20  # bytes of a file that get the time again that a body has, so that a slow client is not a stuck one
ROOM_FOR_FORM = 1 << 16  # what a form has beside its file


class Uploads:
    """The handlers. Another tenant's file is not there."""

    def __init__(
        self, files: Files, opened: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.time
    ) -> None:
        self._files, self._opened, self._clock = files, opened, clock

    async def upload(self, exchange: Exchange) -> ASGIApp:
        """`POST /v1/files`: a form with `purpose`, which is `batch`, and `file`."""
        await self._opened()
        self._check_head(exchange)
        tenant = tenant_key(exchange.tenant)
        try:
            async with self._files.incoming(tenant) as coming:
                form = await self._received(exchange, coming)
                if (purpose := form.fields.get("purpose")) != PURPOSE:
                    given = f", not {purpose!r}" if purpose else ""
                    message = f"purpose: files are taken for {PURPOSE!r}{given}"
                    raise Problem("invalid", message, param="purpose")
                seconds, now = _kept_seconds(form.fields), int(self._clock())
                await coming.sync()
                facts = FileFacts(
                    id=coming.id, bytes=coming.size, created_at=now, filename=form.filename or "", purpose=PURPOSE,
                    expires_at=None if seconds is None else now + seconds,
                )  # fmt: skip
                await self._files.keep(tenant, facts)
        except OSError as error:
            raise no_room(error) from error
        exchange.facts |= {"file": facts.id, "bytes": facts.bytes}
        return json_response(facts, headers={"x-request-id": exchange.id})

    def _check_head(self, exchange: Exchange) -> None:
        """Refuse what is known to be too large before any of it is read."""
        said = exchange.request.headers.get("content-length", "")
        most = self._files.quota().file_bytes
        if said.isdigit() and int(said) > most + ROOM_FOR_FORM:
            raise Problem("too_large", f"a file has at most {most} bytes", code="file_too_large")

    async def _received(self, exchange: Exchange, coming: Incoming) -> Form:
        try:
            form, granted = Form(exchange.request.headers.get("content-type", "")), 0
            async with exchange.receiving() as go_on:
                async for piece in exchange.request.stream():
                    if data := form.feed(piece):
                        if (refusal := coming.refusal(len(data))) is not None:
                            raise Problem("too_large", refusal[1], code=refusal[0], param="file")
                        await coming.append(data)
                    if coming.size - granted >= GRANTED:
                        granted = coming.size
                        go_on()
            form.end()
        except BadForm as error:
            raise Problem("invalid", str(error), code="invalid_form", param="file") from None
        except ClientDisconnect:
            raise Gone from None
        return form

    async def list(self, exchange: Exchange) -> ASGIApp:
        """`GET /v1/files`: the newest first, those of one `purpose` where it is named."""
        await self._opened()
        wanted = exchange.request.query_params.get("purpose")
        found = self._files.list(tenant_key(exchange.tenant))
        if wanted:
            found = [one for one in found if one.purpose == wanted]
        return json_response(page(found, exchange, lambda one: one, limit=MOST_LISTED, most=MOST_LISTED))

    async def show(self, exchange: Exchange) -> ASGIApp:
        """`GET /v1/files/{id}`: what is known of a file."""
        return json_response(await self._found(exchange))

    async def content(self, exchange: Exchange) -> ASGIApp:
        """`GET /v1/files/{id}/content`: its bytes."""
        return _Content(self._files, await self._found(exchange), exchange)

    async def delete(self, exchange: Exchange) -> ASGIApp:
        """`DELETE /v1/files/{id}`: a batch that still reads it has an error for each line that it has not begun."""
        facts = await self._found(exchange)
        try:
            await self._files.delete(tenant_key(exchange.tenant), facts.id)
        except OSError as error:
            raise no_room(error) from error
        return json_response({"id": facts.id, "object": "file", "deleted": True})

    async def _found(self, exchange: Exchange) -> FileFacts:
        await self._opened()
        return found(self._files, tenant_key(exchange.tenant), exchange.request.path_params["file_id"], "file_id")


def _kept_seconds(fields: Mapping[str, str]) -> int | None:
    """How long the fields of a form say that its file is kept. Raises `Problem`."""
    given = {name: fields[key] for name in ("anchor", "seconds") if (key := f"expires_after[{name}]") in fields}
    if not given:
        return None
    try:
        return msgspec.convert(given, ExpiresAfter, strict=False).seconds
    except msgspec.ValidationError as error:
        raise Problem("invalid", f"expires_after: {error}", param="expires_after") from None


def found(files: Files, tenant: str, file_id: str, param: str) -> FileFacts:
    """A file of a tenant. Raises `Problem`."""
    if (facts := files.get(tenant, file_id)) is None:
        raise Problem("not_found", f"no file {file_id[:80]!r} is kept here", code="file_not_found", param=param)
    return facts


def no_room(error: OSError) -> Problem:
    """What a client is told where nothing can be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    message = "the disk of the server is full" if full else "the server cannot write its files"
    return Problem("unavailable", message, code="disk_full" if full else "disk_error", status=507)


class _Content:
    """The response that sends a file."""

    def __init__(self, files: Files, facts: FileFacts, exchange: Exchange) -> None:
        self._files, self._facts, self._exchange = files, facts, exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % self._facts.bytes),
            (b"x-request-id", self._exchange.id.encode()),
        ]  # fmt: skip
        try:
            async with self._files.content(tenant_key(self._exchange.tenant), self._facts.id) as pieces:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async for piece in pieces:
                    await self._put(send, piece)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except FileNotFoundError:  # deleted by hand
            raise Problem("not_found", "the bytes of this file are not there any more", code="file_not_found") from None

    async def _put(self, send: Send, piece: bytes) -> None:
        try:
            async with asyncio.timeout(self._exchange.service.settings.send_seconds):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (OSError, TimeoutError):  # it has left, or does not read
            raise Gone from None
