"""The live parts in a browser: what they show, that they disturb nobody, and that they come back with the server."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.browsing import page_of
from helpers.listening import listening
from helpers.paged import SLOW, keys, paged, say
from helpers.served import served
from playwright.async_api import Browser, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from erllama_py.serve.app import create_app

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_what_the_server_does_is_shown_as_it_happens(browser: Browser) -> None:
    """A request at work, its sequence, tokens a second; then what the cache had of it, and why not more."""
    async with paged(browser, SLOW) as (page, _, _):
        card = page.locator("[data-model=tiny]")
        await expect(card.locator(".pill")).to_have_text("idle")
        await say(page, "a question " * 15)
        await expect(card.locator(".pill")).to_have_text("generating")
        await expect(card.locator("[data-doing=generating]")).to_contain_text("prompt ")
        await expect(card.locator(".speed")).not_to_have_text("0")
        await page.keyboard.press("Escape")
        await expect(card.locator(".pill")).to_have_text("idle")
        await expect(page.locator("#misses")).to_contain_text("nothing is saved for the model")
        await expect(page.locator("#missed")).to_contain_text("0 of ")
        await expect(page.locator("[data-tier=ram]")).to_contain_text("writable")
        await expect(page.locator("[data-fact=State]")).to_contain_text("ok")


async def test_a_snapshot_takes_neither_focus_nor_selection(browser: Browser) -> None:
    """What is the same stays the same element; what changes is its text alone."""
    async with paged(browser) as (page, at, _):
        await page.locator("[data-model=tiny] footer button").focus()
        await page.evaluate("""() => {
            window.before = [...document.querySelectorAll('#live-parts *')];
            getSelection().selectAllChildren(document.querySelector("[data-name='model:tiny'] .name"));
            const up = document.querySelector('[data-fact=Up] .value');
            window.seen = 0;
            new MutationObserver(() => { window.seen += 1; }).observe(up, {childList: true, characterData: true});
        }""")
        await at.runtime.load_model("another", {"backend": "stub"})
        await expect(page.locator("[data-model=another]")).to_be_visible()
        await page.wait_for_function("() => window.seen >= 2")
        assert await page.evaluate("() => getSelection().toString()") == "model:tiny"
        assert await page.evaluate("() => document.activeElement.textContent") == "Crash…"
        assert await page.evaluate("() => window.before.every((one) => one.isConnected)")


async def test_the_page_comes_back_with_its_server(browser: Browser) -> None:
    """It says that the server has ended, tries again, and shows the next one without a reload; what was said stays."""
    async with served(SLOW) as at:
        async with listening(at.app) as address:
            port = int(address.rpartition(":")[2])
            within = page_of(browser, address)
            page = await within.__aenter__()
            await expect(page.locator("#live-text")).to_have_text("Live")
            await say(page, "hello")
            await expect(page.locator(".reply .text .prose")).to_be_visible()
            await at.app.service.open.drain(0)
        text = page.locator("#live-text")
        await expect(text).to_have_text("The server does not answer")
        await expect(page.locator("#live-retry")).to_contain_text("again in")
        await expect(page.locator("#live-parts")).to_have_class("stale")
        async with listening(create_app(at.runtime), port):
            await expect(text).to_have_text("Live")
            await expect(page.locator("#live-parts")).not_to_have_class("stale")
            await expect(page.locator(".user .prose")).to_have_text("hello")
            await within.__aexit__(None, None, None)


async def test_a_server_that_has_another_key_by_now_asks_for_it(browser: Browser) -> None:
    """The page does not go on asking with the old one."""
    _, first, access = keys()
    _, second, other = keys()
    async with served(access=access) as at:
        async with listening(at.app) as address:
            port = int(address.rpartition(":")[2])
            within = page_of(browser, address)
            page = await within.__aenter__()
            await page.fill("#key", first)
            await page.press("#key", "Enter")
            await expect(page.locator("#live-text")).to_have_text("Live")
            await at.app.service.open.drain(0)
        async with listening(create_app(at.runtime, access=other), port):
            await expect(page.locator("#key-problem")).to_contain_text("not known here")
            await page.fill("#key", second)
            await page.press("#key", "Enter")
            await expect(page.locator("#live-text")).to_have_text("Live")
            await within.__aexit__(None, None, None)


async def test_a_key_that_is_taken_away_closes_the_page(browser: Browser) -> None:
    """That of an operator, who watches, and that of a user, who only chats: what was said is gone from the tab."""
    chats, operates, access = keys()
    _, _, other = keys()
    async with served(access=access) as at, listening(at.app) as address:
        changing: Any = at.app.service.access
        for key, state in ((operates, "Live"), (chats, "Chat only")):
            async with page_of(browser, address) as page:
                await page.fill("#key", key)
                await page.press("#key", "Enter")
                await expect(page.locator("#live-text")).to_have_text(state)
                await say(page, "hello")
                await expect(page.locator(".reply .end")).to_contain_text("tokens")
                changing.change(other)
                if state != "Live":
                    await say(page, "are you there?")
                await expect(page.locator("#key-problem")).to_contain_text("not known here")
                await expect(page.locator(".turn")).to_have_count(0)
                assert await page.evaluate("sessionStorage.length") == 0
            changing.change(access)


async def test_a_key_that_is_taken_away_before_a_drill_closes_the_question_too(browser: Browser) -> None:
    """Else it would stand over the field that the next key goes into."""
    _, operates, access = keys()
    _, _, other = keys()
    async with paged(browser, access=access) as (page, at, _):
        await page.fill("#key", operates)
        await page.press("#key", "Enter")
        await page.click("[data-model=tiny] footer button")
        await expect(page.locator("#drill")).to_be_visible()
        changing: Any = at.app.service.access
        changing.change(other)
        await expect(page.locator("#key")).to_be_focused()
        await expect(page.locator("#drill")).to_be_hidden()
        assert at.model.info.restarts == 0


async def test_a_model_of_any_name_is_drilled_and_answers(browser: Browser) -> None:
    """Whatever of it a URL, a sheet of styles or a script would read as its own."""
    names = ["a/b?c#d", "100% & <b>", "..a//b", "שלום/עולם", "x" * 200, "%2e%2e"]
    async with paged(browser) as (page, at, _):
        models = [await at.runtime.load_model(name, {"backend": "stub"}) for name in names]
        for name, model in zip(names, models, strict=True):
            card = page.locator("[data-model]").filter(has=page.get_by_role("heading", name=name, exact=True))
            await card.get_by_role("button").click()
            await page.click("#drill .danger")
            await expect(card.locator(".drill")).to_contain_text("restart now")
            assert model.info.restarts == 1
            await page.select_option("#model", name)
            await say(page, "hello")
            await expect(page.locator(".reply .end").last).to_contain_text("tokens")


async def test_below_a_prefix_it_works_as_above(browser: Browser) -> None:
    """Files, feed, chat and the links to its parts."""
    async with served() as at:
        host: Any = Starlette(routes=[Mount("/llm", at.app)])
        async with listening(host) as address, page_of(browser, f"{address}/llm") as page:
            await expect(page.locator("#live-text")).to_have_text("Live")
            await say(page, "hello")
            await expect(page.locator(".reply .end")).to_contain_text("tokens")
            await page.click("#parts a[href='#tree']")
            assert page.url == f"{address}/llm/"


async def test_a_model_that_is_gone_leaves_the_page(browser: Browser) -> None:
    """And the choice of models in the chat."""
    async with paged(browser) as (page, at, _):
        await at.runtime.load_model("another", {"backend": "stub"})
        await expect(page.locator("#model option")).to_have_count(2)
        await at.runtime.unload("another")
        await expect(page.locator("[data-model=another]")).to_have_count(0)
        await expect(page.locator("#model option")).to_have_text(["tiny"])
