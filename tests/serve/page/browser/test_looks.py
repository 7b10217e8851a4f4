"""How the page looks: on a phone, in the dark, without motion; every text can be read."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.paged import keys, paged, say
from helpers.scripted import Script
from playwright.async_api import Browser, Page, expect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
REPLY = f"a{'b' * 300}\n```\n{'c' * 400}\n```\n" + "many words " * 40

# The contrast of every text with what it stands on, by WCAG 2.2, where it is less than it has to be.
CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, ground) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map((at) => top[at] * alpha + ground[at] * (1 - alpha));
  };
  const ground = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(channels(getComputedStyle(one).backgroundColor));
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const opacity = (node) => {
    let found = 1;
    for (let one = node; one; one = one.parentElement) found *= Number(getComputedStyle(one).opacity);
    return found;
  };
  const poor = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest('.hidden, noscript')) continue;
    if (node.closest(':disabled')) continue;
    texts += 1;
    const below = ground(node);
    const colour = channels(getComputedStyle(node).color);
    const text = over([...colour.slice(0, 3), (colour[3] ?? 1) * opacity(node)], below);
    const [light, dark] = [luminance(text), luminance(below)].sort((one, other) => other - one);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${node.className} ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return {texts, poor};
}"""


async def fill(page: Page) -> None:
    """Have something everywhere: a reply with code, a reply that failed, a drill, all options."""
    await expect(page.locator("[data-model=tiny]")).to_be_visible()
    await say(page, "hello")
    await expect(page.locator(".end").first).to_contain_text("tokens")
    await say(page, "x" * 5000)
    await expect(page.locator(".reply .problem:visible")).to_be_visible()
    await page.click("#options summary")
    await page.check("#use-json")
    await page.click("[data-model=tiny] footer button")
    await page.click("#drill .danger")
    await expect(page.locator(".drill")).to_contain_text("restart now")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read(browser: Browser, scheme: str) -> None:
    """4.5 to 1 at least, in both schemes: the key's form, the page in use, and the page without its server."""
    _, operates, access = keys()
    script = Script(REPLY, "ok")
    context: Any = {"color_scheme": scheme}
    async with paged(browser, script=script, context=context, access=access) as (page, _, _):
        assert (await page.evaluate(CONTRAST))["poor"] == []
        await page.fill("#key", operates)
        await page.press("#key", "Enter")
        await fill(page)
        seen = await page.evaluate(CONTRAST)
        assert seen["poor"] == []
        assert seen["texts"] > 80
        await page.click("[data-model=tiny] footer button")
        assert (await page.evaluate(CONTRAST))["poor"] == []
        await page.keyboard.press("Escape")
        await page.evaluate("() => document.querySelector('#live-parts').classList.add('stale')")
        assert (await page.evaluate(CONTRAST))["poor"] == []
        dark = await page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
        assert dark == (scheme == "dark")


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Browser) -> None:
    """At 320 pixels, with words and code that are longer than that; buttons are large enough for a finger."""
    async with paged(browser, script=Script(REPLY, "ok"), context=PHONE) as (page, _, _):
        await fill(page)
        await page.click("[data-model=tiny] footer button")
        dialog = await page.locator("#drill").bounding_box()
        assert dialog is not None
        assert dialog["x"] >= 0
        assert dialog["x"] + dialog["width"] <= 320
        await page.keyboard.press("Escape")
        assert await page.evaluate("() => document.documentElement.scrollWidth") == 320
        wide = await page.evaluate("""() => [...document.querySelectorAll('body *')]
            .filter((one) => one.checkVisibility() && !one.closest('pre, .hidden, .skip')
                && one.getBoundingClientRect().right > 320.5)
            .map((one) => one.outerHTML.slice(0, 90))""")
        assert wide == []
        small = await page.evaluate("""() => [...document.querySelectorAll('button, select, summary, nav a')]
            .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 24)
            .map((one) => one.textContent)""")
        assert small == []


async def test_nothing_moves_for_whoever_wants_no_motion(browser: Browser) -> None:
    """Scrolling to a part is a jump; nothing is animated."""
    async with paged(browser, context={"reduced_motion": "reduce"}) as (page, _, _):
        await expect(page.locator("#live-text")).to_have_text("Live")
        assert await page.evaluate("() => getComputedStyle(document.documentElement).scrollBehavior") == "auto"
        assert await page.evaluate("() => document.getAnimations().length") == 0
