"""The page by keyboard alone: from the key to a reply to the drill, with the focus always in sight."""

from __future__ import annotations

import pytest
from helpers.paged import SLOW, focused, keys, paged, say, tab_to
from playwright.async_api import Browser, expect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
OUTLINE = "() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle + ' ' + s.outlineWidth; }"
# Once the question is there: it is left, and asked again in the same breath.
LEFT_AND_ASKED = """async () => {
    const asks = document.querySelector("button[aria-label='Crash tiny, a drill']");
    const drill = document.getElementById("drill");
    asks.click();
    while (!drill.open) await new Promise((resolve) => setTimeout(resolve));
    drill.close("cancel");
    asks.click();
}"""


async def test_from_the_key_to_a_reply_to_the_drill(browser: Browser) -> None:
    """No pointer: a wrong key is told and may be typed again, Enter sends, the drill is confirmed and watched."""
    _, operates, access = keys()
    async with paged(browser, SLOW, access=access) as (page, at, _):
        await expect(page.locator("#key")).to_be_focused()
        await page.keyboard.type("erl_wrong")
        await page.keyboard.press("Enter")
        await expect(page.locator("#key-problem")).to_contain_text("this API key is not known here")
        await expect(page.locator("#key")).to_be_focused()
        await page.keyboard.type(operates)
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-text")).to_have_text("Live")
        await expect(page.locator("#message")).to_be_focused()
        await page.keyboard.type("hello")
        await page.keyboard.press("Enter")
        await expect(page.locator(".reply .text .prose")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator(".reply .end")).to_have_text("Stopped.")
        assert await focused(page) == "message"

        await tab_to(page, "Crash…", "Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#drill")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#drill")).to_be_hidden()
        assert await focused(page) == "Crash…"
        assert at.model.info.restarts == 0
        await page.keyboard.press("Enter")
        await tab_to(page, "Crash it")
        await page.keyboard.press("Enter")
        await expect(page.locator(".drill")).to_contain_text("It answers again")
        await expect(page.locator(".drill")).to_contain_text("It has 1 restart now")
        await expect(page.locator("[data-name='model:tiny'] .state")).to_contain_text("1 restart")
        await expect(page.locator("[data-name='model:tiny'] .failure")).to_contain_text("DrillFault")


async def test_a_drill_is_asked_for_again_before_the_page_hears_that_it_was_left(browser: Browser) -> None:
    """A dialog closes first, and tells it later: a key may come in between."""
    _, operates, access = keys()
    async with paged(browser, SLOW, access=access) as (page, at, _):
        await expect(page.locator("#key")).to_be_focused()
        await page.keyboard.type(operates)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Crash tiny, a drill")).to_be_visible()
        await page.evaluate(LEFT_AND_ASKED)
        await expect(page.locator("#drill")).to_be_visible()
        await page.get_by_role("button", name="Crash it").click()
        await expect(page.locator(".drill")).to_contain_text("It has 1 restart now")
        assert at.model.info.restarts == 1


async def test_the_focus_is_in_sight_and_goes_through_all_of_the_page(browser: Browser) -> None:
    """The skip link is first and leads to the chat; nothing holds the focus; each that has it shows it."""
    async with paged(browser) as (page, _, _):
        await expect(page.locator("#live-text")).to_have_text("Live")
        await page.evaluate("() => document.activeElement.blur()")
        await page.evaluate("() => { getSelection().removeAllRanges(); window.scrollTo(0, 0); }")
        await page.locator("h1").click()  # the order begins at the top
        passed = list[str]()
        while "Options" not in passed:
            await page.keyboard.press("Tab")
            passed.append(await focused(page))
            style, width = (await page.evaluate(OUTLINE)).split()
            assert style != "none", passed
            assert float(width.removesuffix("px")) >= 2
            assert len(passed) < 40, passed
        assert passed[0] == "Models"
        order = [passed.index(one) for one in ("Models", "Crash…", "model", "new-chat", "log", "message", "send")]
        assert order == sorted(order)
        await page.keyboard.press("Tab")
        assert await focused(page) not in passed  # it leaves the page

        await page.evaluate("() => document.querySelector('#skip').focus()")
        box = await page.locator("#skip").bounding_box()
        assert box is not None
        assert box["y"] >= 0
        await page.keyboard.press("Enter")
        assert await focused(page) == "message"


async def test_a_reply_is_stopped_by_the_keys_alone(browser: Browser) -> None:
    """Where the button that was pressed goes, the focus goes on in the message; so it does after a second try."""
    async with paged(browser, SLOW) as (page, at, _):
        await say(page, "hello")
        await expect(page.locator(".reply .text .prose")).to_be_visible()
        await tab_to(page, "stop")
        await page.keyboard.press("Enter")
        await expect(page.locator(".reply .end")).to_have_text("Stopped.")
        await expect(page.locator("#message")).to_be_focused()

        await say(page, "again")
        await expect(page.locator(".reply .text .prose").nth(1)).to_be_visible()
        await at.runtime.unload("tiny")  # a reply goes on after a crash, and not after this
        await expect(page.locator(".reply .problem:visible")).to_contain_text("The reply was cut")
        await at.runtime.load_model("tiny", SLOW | {"backend": "stub"})
        await expect(page.locator("#model")).to_have_value("tiny")
        await tab_to(page, "Try again", "Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#message")).to_be_focused()
        await expect(page.locator(".reply .text .prose").nth(2)).to_be_visible()
        await expect(page.get_by_role("button", name="Try again")).to_have_count(0)


async def test_what_can_be_no_key_is_told_at_once(browser: Browser) -> None:
    """It could not be sent: the server is not to blame, and is not asked."""
    _, operates, access = keys()
    async with paged(browser, access=access) as (page, _, _):
        await expect(page.locator("#key")).to_be_focused()
        for text in ("ключ", "erl_a b", "erl_\u00a0x"):
            await page.fill("#key", text)
            await page.press("#key", "Enter")
            await expect(page.locator("#key-problem")).to_contain_text("That is no key")
            await expect(page.locator("#live-text")).to_have_text("Closed")
            await expect(page.locator("#key")).to_be_focused()
        await page.fill("#key", operates)
        await page.press("#key", "Enter")
        await expect(page.locator("#live-text")).to_have_text("Live")


async def test_a_browser_that_keeps_nothing_opens_the_page(browser: Browser) -> None:
    """The key is asked for again after a reload, and that is all."""
    _, operates, access = keys()
    forbid = (
        "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    )
    async with paged(browser, access=access) as (page, _, _):
        await page.add_init_script(forbid)
        await page.reload()
        await page.fill("#key", operates)
        await page.press("#key", "Enter")
        await expect(page.locator("#live-text")).to_have_text("Live")


async def test_a_line_is_broken_by_shift_and_enter(browser: Browser) -> None:
    """Enter alone sends; nothing but white space is not sent."""
    async with paged(browser) as (page, _, _):
        await expect(page.locator("#inside")).to_be_visible()
        await page.press("#message", "Enter")
        await page.type("#message", "one")
        await page.press("#message", "Shift+Enter")
        await page.type("#message", "two")
        assert await page.input_value("#message") == "one\ntwo"
        assert await page.locator(".turn").count() == 0
        await page.press("#message", "Enter")
        await expect(page.locator(".user .prose")).to_have_text("one\ntwo")


async def test_a_key_is_forgotten_when_it_is_asked_to_be(browser: Browser) -> None:
    """It was kept in this tab alone: nothing of it in a cookie, in an address or beyond the session."""
    _, operates, access = keys()
    async with paged(browser, access=access) as (page, _, _):
        await page.fill("#key", operates)
        await page.press("#key", "Enter")
        await expect(page.locator("#inside")).to_be_visible()
        await page.reload()
        await expect(page.locator("#inside")).to_be_visible()
        assert operates not in await page.evaluate(
            "() => document.cookie + location.href + JSON.stringify(localStorage)"
        )
        await say(page, "hello")
        await page.click("#forget")
        await expect(page.locator("#key")).to_be_focused()
        assert await page.locator(".turn").count() == 0
        await page.reload()
        await expect(page.locator("#key")).to_be_focused()
        await expect(page.locator("#key-problem")).to_have_text("")
