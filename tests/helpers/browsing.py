"""A headless Chromium of the system, driven by playwright, and what a page in it asked for and complained of."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 20_000


def chromium() -> str | None:
    """Its path: `$CHROMIUM`, or one on the path."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """One browser. Where there is none the test is skipped; with `$ERLLAMA_NEEDS_CHROMIUM` it fails."""
    path = chromium()
    if path is None:
        if os.environ.get("ERLLAMA_NEEDS_CHROMIUM"):
            pytest.fail("there is no Chromium here: install one, or name it in $CHROMIUM")
        pytest.skip("there is no Chromium here")
    async with async_playwright() as playwright:
        # Its own sandbox needs rights that containers do not give; the pages are ours.
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_of(browser: Browser, address: str, **context: Any) -> AsyncIterator[Page]:
    """A page at an address, in a context of its own: whatever a test does with it, it asks nobody else, breaks no rule
    of its policy, and has no error that it did not handle."""
    within = await browser.new_context(**context)
    page = await within.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked, complaints = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if _tells(message.text) else None)
    await page.add_init_script(
        "addEventListener('securitypolicyviolation', (e) => console.warn('Policy', e.blockedURI))"
    )
    try:
        await page.goto(address)
        yield page
    finally:
        await within.close()
    origin = "/".join(address.split("/")[:3])
    assert [url for url in asked if not url.startswith(f"{origin}/")] == []
    assert complaints == [], complaints


def _tells(text: str) -> bool:
    """Whether a line of the console tells of a mistake: that a request was refused, or the server gone, is none."""
    return not text.startswith("Failed to load resource")
