"""The page of a server in this process, in a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from playwright.async_api import Browser, Page, expect

from erllama_py.serve.access import AccessOpts, KeyOpts, make_key
from helpers.browsing import PATIENCE_MS, page_of
from helpers.listening import listening
from helpers.scripted import Script
from helpers.served import Served, served

expect.set_options(timeout=PATIENCE_MS)
SLOW: Any = {"stub": {"seconds_per_token": 0.01, "replies": ["many words " * 150]}}
"""A model whose reply takes long enough to be in the middle of it."""


class Paged(NamedTuple):
    """What a test looks at, and the server behind it."""

    page: Page
    at: Served
    address: str


@asynccontextmanager
async def paged(
    browser: Browser, config: Any = None, *, script: Script | None = None, context: Any = None, **given: Any
) -> AsyncIterator[Paged]:
    """The page of a server with one model, `tiny`; see `served`. `context` is the browser's: its size, its colours."""
    async with (
        served(config, script=script, **given) as at,
        listening(at.app) as address,
        page_of(browser, address, **(context or {})) as page,
    ):
        yield Paged(page, at, address)


def keys() -> tuple[str, str, AccessOpts]:
    """A key that may chat, an operator's, and the server's side of both."""
    (chats, chats_hash), (operates, operates_hash) = make_key(), make_key()
    entries = (KeyOpts(name="a", hash=chats_hash), KeyOpts(name="b", hash=operates_hash, operator=True))
    return chats, operates, AccessOpts(keys=entries)


async def say(page: Page, text: str) -> None:
    """Type a message and send it."""
    await page.fill("#message", text)
    await page.press("#message", "Enter")


async def focused(page: Page) -> str:
    """What has the focus: its id, or else its text."""
    told: str = await page.evaluate(
        "() => { const one = document.activeElement; return one.id || one.textContent.trim() || one.tagName; }"
    )
    return told


async def tab_to(page: Page, what: str, key: str = "Tab", most: int = 60) -> list[str]:
    """Press a key until something has the focus; what had it on the way."""
    passed = list[str]()
    for _ in range(most):
        await page.keyboard.press(key)
        passed.append(await focused(page))
        if passed[-1] == what:
            return passed
    raise AssertionError(f"{what!r} is not reached: {passed}")
