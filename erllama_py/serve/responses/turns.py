"""A request as a turn of its conversation: what was said before, by the answers that are stored, and what is new."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import msgspec

from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.images import image_text
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import session_of
from erllama_py.serve.core.tenants import tenant_key
from erllama_py.serve.responses.items import read_items
from erllama_py.serve.responses.messages import messages_of
from erllama_py.serve.responses.protocol import Turn
from erllama_py.serve.responses.sealing import BadSeal, seal, unseal
from erllama_py.serve.responses.store import Record, Store

_OF_ANSWER = re.compile(r"^[a-z]+_([0-9a-f]{32})_\d+$")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A turn, ready for the model."""

    input: list[dict[str, Any]]
    """The items of the request itself."""
    items: list[dict[str, Any]]
    """All items of the conversation, these last."""
    messages: list[dict[str, Any]]
    """The same as the model's chat template takes them."""
    before: list[Record]
    """The answers that it goes on from, the first one first."""
    session: str | None
    """Of its conversation; `None` where nothing was said before, and no key was given."""

    @property
    def last(self) -> Record | None:
        """The last one of these."""
        return self.before[-1] if self.before else None


class Turns:
    """Reads turns for one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, exchange: Exchange, request: Turn) -> Asked:
        """The turn that a request is. Raises `Problem`."""
        tenant = tenant_key(exchange.tenant)
        before = await self.before(tenant, request.previous_response_id)
        check_image = partial(image_text, exchange.service.settings)
        given = [await self._resolved(tenant, item) for item in read_items(request.input, check_image)]
        if not given and not before:
            raise Problem("invalid", "input: there is nothing to answer", param="input")
        items = [item for record in before for item in (*record.input, *record.said().output)] + given
        exchange.check_count(items, "input")
        key = await self._store.key() if any(item.get("encrypted_content") for item in items) else b""

        def opened(kind: str, sealed: str) -> str:
            try:
                return unseal(key, kind, tenant, sealed)
            except BadSeal:
                message = "encrypted_content: it was not made by this server for this client, or was changed"
                raise Problem("invalid", message, param="input", code="invalid_encrypted_content") from None

        messages = messages_of(items, request.instructions, opened)
        last = before[-1] if before else None
        session = last.session if last is not None else None
        if request.prompt_cache_key:
            session = session_of(f"{tenant} {request.prompt_cache_key}")
        return Asked(input=given, items=items, messages=messages, before=before, session=session)

    async def before(self, tenant: str, previous: str | None) -> list[Record]:
        """All turns up to an answer, the first one first. Raises `Problem` where not all of them are stored."""
        if previous is None:
            return []
        found = await self._store.chain(tenant, previous)
        if not found or found[0].previous is not None:
            which = f"an earlier answer of the conversation, {found[0].previous}," if found else repr(previous[:80])
            message = f"{which} is not stored, or not any more: send the conversation's items as input"
            raise Problem("invalid", message, param="previous_response_id", code="previous_response_not_found")
        return found

    async def stored(self, tenant: str, response_id: str) -> Record:
        """One answer. Raises `Problem`."""
        found = await self._store.chain(tenant, response_id)
        if not found:
            message = f"there is no stored answer {response_id[:80]!r}"
            raise Problem("not_found", message, param="response_id", code="response_not_found")
        return found[-1]

    async def sealer(self, exchange: Exchange, kind: str) -> Any:
        """What seals texts of a kind for the client that asks."""
        key, tenant = await self._store.key(), tenant_key(exchange.tenant)
        return lambda text: seal(key, kind, tenant, text)

    async def _resolved(self, tenant: str, item: dict[str, Any]) -> dict[str, Any]:
        """The item that a reference names. Raises `Problem`."""
        if item["type"] != "item_reference":
            return item
        if match := _OF_ANSWER.match(item["id"]):
            for record in (await self._store.chain(tenant, f"resp_{match[1]}"))[-1:]:
                for found in record.said().output:
                    if found["id"] == item["id"]:
                        return dict(found)
        message = f"no item {item['id'][:80]!r} of a stored answer: send the item itself"
        raise Problem("not_found", message, param="input", code="item_not_found")
