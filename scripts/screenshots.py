"""Takes the pictures of docs/guides/page.md: a server with a small model and one that says what it is told.

    python -m erllama_py.serve.models smollm2
    python -m scripts.screenshots

The pictures are WebP files in docs/images. It needs a Chromium, on the path or named by `$CHROMIUM`.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from playwright.async_api import Browser, Page, async_playwright, expect

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.models import fetch
from erllama_py.testing import Backend, Script, make_backend

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
QUALITY = 82
DESKTOP: Any = {"viewport": {"width": 1440, "height": 1000}, "device_scale_factor": 1}
PHONE: Any = {"viewport": {"width": 360, "height": 780}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
CALL = '<tool_call>\n{"name": "current_time", "arguments": {"time_zone": "Europe/Oslo"}}\n</tool_call>'
ANSWER = "It is a little later in Oslo than in London. The call above has the exact time."
CODE = """Any client of OpenAI's API will do:

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
reply = client.chat.completions.create(
    model="assistant", messages=[{"role": "user", "content": "hello"}]
)
print(reply.choices[0].message.content)
```"""
THOUGHT = "<think>\nThe time in Oslo is asked for, and there is a tool for that.</think>\n"
LONG: Any = {"model": "smollm2", "max_tokens": 2000, "stream": True, "ignore_eos": True}


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """The address of a server with two models and a tier on disk."""
    replies = {"ask you from": CODE, '"now"': ANSWER, "Oslo": f"{THOUGHT}{CALL}", "": "pong"}
    script = Script(replies, controls=("<think>", "</think>"))

    def backend(model_id: str, config: erllama.ModelConfig) -> Backend:
        return make_backend(model_id, config) if config.backend == "llama" else script.backend(model_id, config)

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        tiers: Any = {"disk": {"kind": "disk", "root": folder, "quota_bytes": 8 << 30}}
        async with erllama.Runtime(tiers=tiers, ram_quota_bytes=2 << 30, backend_factory=backend) as runtime:
            options: Any = {"context_opts": {"n_ctx": 8192, "n_seq_max": 4}, "tier_srv": "disk"}
            real: Any = {"model_path": str(fetch("smollm2")), **options}
            await runtime.load_model("smollm2", real)
            stub: Any = {"backend": "stub", "stub": {"seconds_per_token": 0.0005}, **options}
            await runtime.load_model("assistant", stub)
            app = create_app(runtime, aliases={"small": "smollm2"})
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serving


async def busy(address: str, text: str) -> None:
    """A client whose reply is long."""
    async with httpx.AsyncClient(base_url=address, timeout=None) as client:
        ask = LONG | {"messages": [{"role": "user", "content": text}]}
        async with client.stream("POST", "/v1/chat/completions", json=ask) as reply:
            async for _ in reply.aiter_bytes():
                pass


async def talk(page: Page) -> None:
    """A drill, then a conversation with thinking, a call and code."""
    card = page.locator("[data-model=assistant]")
    await card.locator("footer button").click()
    await page.click("#drill .danger")
    await expect(card.locator(".drill")).to_contain_text("restart")
    await page.select_option("#model", "assistant")
    await page.click("#options summary")
    await page.check("#use-tools")
    await page.click("#options summary")
    await page.fill("#message", "What time is it in Oslo?")
    await page.press("#message", "Enter")
    await expect(page.locator(".end").last).to_contain_text("tokens/s")
    await expect(page.locator(".reply")).to_have_count(2)
    await page.fill("#message", "How do I ask you from Python?")
    await page.press("#message", "Enter")
    await expect(page.locator(".reply pre")).to_be_visible()


async def save(page: Page, name: str) -> None:
    """The page as it is seen, as a WebP file."""
    await page.evaluate("() => document.activeElement.blur()")
    session = await page.context.new_cdp_session(page)
    shot = await session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    (IMAGES / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))


async def desktop(browser: Browser, address: str) -> None:
    """Wide, in both schemes, with two replies under way."""
    page = await browser.new_page(**DESKTOP, color_scheme="light")
    await page.goto(address)
    await talk(page)
    working = [asyncio.create_task(busy(address, text)) for text in ("Tell me a story.", "Write a long letter.")]
    await page.wait_for_timeout(9_000)  # until the curve has a shape
    await save(page, "page-light")
    await page.emulate_media(color_scheme="dark")
    await save(page, "page-dark")
    await page.emulate_media(color_scheme="light")
    await page.evaluate("() => document.querySelector('#tree').scrollIntoView({behavior: 'instant'})")
    await save(page, "page-tree")
    for one in working:
        one.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    await page.close()


async def phone(browser: Browser, address: str) -> None:
    """Narrow: what the server does, and the chat."""
    page = await browser.new_page(**PHONE, color_scheme="dark")
    await page.goto(address)
    await expect(page.locator("[data-model=assistant]")).to_be_visible()
    await save(page, "page-phone")
    await page.select_option("#model", "assistant")
    await page.fill("#message", "How do I ask you from Python?")
    await page.press("#message", "Enter")
    await expect(page.locator(".reply pre")).to_be_visible()
    await expect(page.locator(".end")).to_contain_text("tokens")
    await page.evaluate("() => document.querySelector('#chat').scrollIntoView({behavior: 'instant'})")
    await save(page, "page-phone-chat")
    await page.close()


async def main() -> None:
    """All pictures."""
    IMAGES.mkdir(exist_ok=True)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    async with served() as address, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        await desktop(browser, address)
        await phone(browser, address)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
