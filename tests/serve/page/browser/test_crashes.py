"""Crashes of a model's process in a browser: the drill by keyboard, what the page says, and the reply that goes on."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers.paged import paged, say, tab_to
from playwright.async_api import Browser, expect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
REPLY = "many words " * 100
OWN: Any = {"isolation": "process", "stub": {"seconds_per_token": 0.004, "replies": [REPLY]}}
WENT_ON = re.compile("requests? went on")


async def test_a_process_is_ended_and_the_reply_goes_on(browser: Browser) -> None:
    """By keyboard. The card tells which process it was, what ended it and how many requests went on."""
    async with paged(browser, OWN) as (page, at, _):
        card = page.locator("[data-model=tiny]")
        first = at.model.info.pid
        await expect(card.locator(".process")).to_have_text(f"In a process of its own, process {first}")
        await expect(card.locator(".crashed")).to_be_hidden()
        await say(page, "hello")
        await expect(page.locator(".reply .text .prose")).to_be_visible()
        await tab_to(page, "Crash…", "Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#drill-where")).to_have_value("process")
        await expect(page.locator("#drill-where option:not([disabled])")).to_have_count(5)
        await tab_to(page, "Crash it")
        await page.keyboard.press("Enter")
        await expect(card.locator(".crashed")).to_contain_text(f", process {first}: SIGSEGV")
        await expect(card.locator(".crashed")).to_contain_text(WENT_ON)
        await expect(card.locator(".drill")).to_contain_text("It has 1 restart now")
        await expect(card.locator(".drill")).to_contain_text(WENT_ON)
        await expect(page.locator(".reply .end")).to_contain_text("tokens")
        assert (await page.locator(".reply .text").text_content() or "").strip() == REPLY.strip()
        await expect(card.locator(".process")).to_have_text(f"In a process of its own, process {at.model.info.pid}")


async def test_a_model_on_a_thread_has_no_process_to_end(browser: Browser) -> None:
    """It would be the server's: the drill has no such place. A crash of the thread is told all the same."""
    async with paged(browser) as (page, at, _):
        card = page.locator("[data-model=tiny]")
        await expect(card.locator(".process")).to_have_text(f"On a thread of the server, process {at.model.info.pid}")
        await card.locator("footer button").click()
        await expect(page.locator("#drill-where")).to_have_value("thread")
        await expect(page.locator("#drill-where option:not([disabled])")).to_have_count(3)
        await page.click("#drill .danger")
        await expect(card.locator(".crashed")).to_contain_text("DrillFault")
