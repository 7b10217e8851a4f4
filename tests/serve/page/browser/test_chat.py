"""The chat in a browser: texts stay texts, thinking, calls and JSON are shown as such, and what goes wrong is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.paged import SLOW, keys, paged, say
from helpers.runtime import until
from helpers.scripted import Script
from playwright.async_api import Browser, expect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
MARKUP = "<img src=x onerror=alert(1)>\n<script>alert(2)</script> <b>bold</b>"
THINKING = ("<think>", "</think>")


async def test_what_a_model_writes_is_text(browser: Browser) -> None:
    """Markup is shown as it was written; code between fences is code, with its lines."""
    script = Script(f"{MARKUP}\n```python\nprint(1)\n  print(2)\n```\nafter")
    async with paged(browser, script=script) as (page, _, _):
        await say(page, MARKUP)
        reply = page.locator(".reply .text")
        await expect(reply.locator("p").first).to_have_text(MARKUP)
        await expect(reply.locator("pre code")).to_have_text("print(1)\n  print(2)")
        await expect(reply.locator("p").last).to_have_text("after")
        assert await page.locator("#log img, #log script, #log b").count() == 0
        await expect(page.locator(".user .prose")).to_have_text(MARKUP)


async def test_a_reply_says_what_it_took_and_the_next_one_finds_the_chat(browser: Browser) -> None:
    """Tokens, their rate, and how much of the prompt was cached."""
    async with paged(browser, script=Script("first reply " * 20, "second reply")) as (page, at, _):
        await say(page, "a question of some length " * 10)
        await expect(page.locator(".end").first).to_contain_text("0 of ")
        await expect(page.locator(".end").first).to_contain_text("tokens/s")
        await say(page, "and another")
        second = page.locator(".end").nth(1)
        await expect(second).to_contain_text("prompt tokens cached")
        cached = int(str(await second.text_content()).split(" of ")[0].rsplit(" ", 1)[1].replace(",", ""))
        assert cached == at.model.last_cache_hit.prefix_len > 200  # type: ignore[union-attr]  # there was one
        await page.click("#new-chat")
        await expect(page.locator(".turn")).to_have_count(0)


async def test_thinking_is_a_block_of_its_own(browser: Browser) -> None:
    """Closed until it is opened, and no part of the reply."""
    script = Script("<think>\nhm, hm</think>\n\nyes", controls=THINKING)
    async with paged(browser, script=script) as (page, _, _):
        await say(page, "well?")
        await expect(page.locator(".reply .text")).to_have_text("yes")
        summary = page.locator(".thinking summary")
        await expect(summary).to_contain_text("Thought for")
        await expect(page.locator(".thinking .prose")).to_be_hidden()
        await summary.press("Enter")
        await expect(page.locator(".thinking .prose")).to_contain_text("hm, hm")


async def test_calls_are_shown_and_answered_by_the_page(browser: Browser) -> None:
    """With their arguments and results; the model reads the results and goes on."""
    call = '<tool_call>\n{"name": "current_time", "arguments": {"time_zone": "Europe/Oslo"}}\n</tool_call>'
    asked = list[str]()

    def then(prompt: str) -> str:
        asked.append(prompt)
        return "It is late."

    async with paged(browser, script=Script(call, then)) as (page, _, _):
        await page.click("#options summary")
        await page.check("#use-tools")
        await say(page, "what time is it?")
        calls = page.locator(".calls li")
        await expect(calls.locator("code").first).to_have_text('current_time({"time_zone": "Europe/Oslo"})')
        await expect(calls.locator(".result")).to_contain_text('"time_zone":"Europe/Oslo"')
        await expect(page.locator(".reply .text").last).to_have_text("It is late.")
        assert "Europe/Oslo" in asked[0]


async def test_json_is_formatted_and_held_to_the_schema(browser: Browser) -> None:
    """As the schema says; a schema that is no JSON is said so, and nothing is sent."""
    async with paged(browser, script=Script('{"answer":"yes","sure":true}')) as (page, at, _):
        await page.click("#options summary")
        await page.check("#use-json")
        schema = await page.input_value("#schema")
        await page.fill("#schema", "{")
        await say(page, "are you?")
        await expect(page.locator("#options-problem")).to_contain_text("The schema is no JSON")
        await expect(page.locator("#schema")).to_be_focused()
        assert at.model.counters.requests == 0
        await page.fill("#schema", schema)
        await page.press("#message", "Enter")
        shown = page.locator(".reply pre code")
        await expect(shown).to_contain_text('  "answer": "yes"')
        assert json.loads(str(await shown.text_content())) == {"answer": "yes", "sure": True}


async def test_a_reply_is_stopped_with_what_it_has(browser: Browser) -> None:
    """By the button, and the request ends too; the chat goes on."""
    async with paged(browser, SLOW) as (page, at, _):
        await say(page, "hello")
        await expect(page.locator(".reply .text .prose")).to_be_visible()
        await page.click("#stop")
        await expect(page.locator(".end")).to_have_text("Stopped.")
        assert str(await page.locator(".reply .text").text_content())
        await expect(page.locator("#send")).to_be_visible()
        await page.click("#options summary")
        await page.fill("#max-tokens", "3")
        await say(page, "again")
        await expect(page.locator(".end").nth(1)).to_contain_text("ended by its length")
        assert at.model.queue_depth == 0


async def test_another_chat_begins_while_a_reply_is_under_way(browser: Browser) -> None:
    """The reply ends, and nothing of it is in the new conversation."""
    async with paged(browser, SLOW) as (page, at, _):
        await say(page, "the first question")
        await expect(page.locator(".reply .text .prose")).to_be_visible()
        await page.click("#new-chat")
        await expect(page.locator("#send")).to_be_visible()
        await expect(page.locator(".turn")).to_have_count(0)
        before = at.model.counters.prompt_tokens
        await say(page, "hi")
        await expect(page.locator(".reply .text .prose")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator(".end")).to_have_text("Stopped.")
        await until(lambda: at.model.queue_depth == 0)
        assert at.model.counters.prompt_tokens - before < 60


async def test_an_error_is_shown_as_it_was_said(browser: Browser) -> None:
    """With its status and code, and the id under which the log has it."""
    async with paged(browser, {"context_opts": {"n_ctx": 64}}) as (page, _, _):
        await say(page, "x" * 500)
        problem = page.locator(".reply .problem:visible")
        await expect(problem).to_contain_text("context_length_exceeded")
        await expect(problem).to_contain_text("status 400")
        await expect(problem).to_contain_text("req_")
        await say(page, "short")  # without the question that was refused
        await expect(page.locator(".reply .problem:visible")).to_have_count(1)
        await expect(page.locator(".reply .text").last).not_to_be_empty()


async def test_a_model_that_crashes_while_it_replies(browser: Browser) -> None:
    """The reply goes on after a pause, and says nothing of it; the tree shows the restart."""
    async with paged(browser, SLOW) as (page, at, _):
        await say(page, "hello")
        await expect(page.locator(".reply .text .prose")).to_be_visible()
        assert (await at.client.post("/erllama/models/tiny/crash", json={"where": "decode"})).status_code == 200
        await expect(page.locator("[data-name='model:tiny'] .state")).to_contain_text("1 restart")
        await expect(page.locator("#models")).to_contain_text("1 request went on")
        text = page.locator(".reply .text .prose")
        before = await text.inner_text()
        await expect(text).not_to_have_text(before)
        await expect(page.locator(".reply .problem:visible")).to_have_count(0)
        await page.keyboard.press("Escape")
        await expect(page.locator(".end")).to_have_text("Stopped.")


async def test_a_key_that_is_no_operators_may_chat_and_sees_no_more(browser: Browser) -> None:
    """It is told why."""
    chats, _, access = keys()
    async with paged(browser, access=access, script=Script("hello to you")) as (page, _, _):
        await page.fill("#key", chats)
        await page.press("#key", "Enter")
        await expect(page.locator("#closed-text")).to_contain_text("this is for operators of the server")
        await expect(page.locator("#live-parts")).to_be_hidden()
        await say(page, "hello")
        await expect(page.locator(".reply .text")).to_have_text("hello to you")


async def test_who_listens_hears_a_reply_once_it_is_whole(browser: Browser) -> None:
    """The log is a live region, and what grows in it is busy until it is done."""
    async with paged(browser, SLOW) as (page, _, _):
        assert await page.get_attribute("#log", "role") == "log"
        await say(page, "hello")
        await expect(page.locator(".reply")).to_have_attribute("aria-busy", "true")
        await page.keyboard.press("Escape")
        await expect(page.locator(".reply")).to_have_attribute("aria-busy", "false")
        names: Any = await page.evaluate(
            "() => [...document.querySelectorAll('input, select, textarea')].map((one) => one.labels.length)"
        )
        assert all(names)
