"""The files of the page: for everybody, with what browsers are told of them, below any prefix, of this origin alone."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import litestar
import pytest
from helpers.served import served
from starlette.applications import Starlette
from starlette.routing import Mount

from erllama_py.serve.access import AccessOpts, KeyOpts, make_key
from erllama_py.serve.page.assets import INDEX, MEDIA, below, load

pytestmark = pytest.mark.anyio
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HOSTS = [
    lambda app: Starlette(routes=[Mount("/llm", app)]),
    lambda app: litestar.Litestar([litestar.asgi("/llm", is_mount=True, copy_scope=True)(app)], logging_config=None),
]
STATIC = Path(str(files("erllama_py.serve.page"))) / "static"


async def test_browsers_get_the_page_and_programs_what_they_compare() -> None:
    """By `Accept`; caches tell them apart."""
    async with served() as at:
        page = await at.client.get("/", headers=BROWSER)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "<title>erllama</title>" in page.text
        assert page.headers["vary"] == "accept"
        assert (await at.client.get("/")).text == "Ollama is running"
        assert (await at.client.head("/", headers=BROWSER)).headers["content-type"] == "text/html; charset=utf-8"


async def test_the_page_is_sent_without_a_key_and_says_nothing_of_the_server() -> None:
    """What it shows comes from endpoints that need one."""
    _, digest = make_key()
    keys = AccessOpts(keys=(KeyOpts(name="a", hash=digest),))
    async with served(access=keys) as at, served(access=keys) as other:
        for name in ["", *(f"page/{one}" for one in load() if one != INDEX)]:
            answer = await at.client.get(f"/{name}", headers=BROWSER)
            assert answer.status_code == 200, name
            assert "set-cookie" not in answer.headers
            assert "tiny" not in answer.text
            assert answer.content == (await other.client.get(f"/{name}", headers=BROWSER)).content
        for path in ("/v1/models", "/erllama/live", "/erllama/tree"):
            assert (await at.client.get(path)).status_code == 401


async def test_browsers_are_told_to_run_nothing_else() -> None:
    """Neither scripts in the page nor of elsewhere, no frames, no guesses of types."""
    async with served() as at:
        for path in ("/", "/page/app.js", "/page/base.css", "/page/icon.svg"):
            headers = (await at.client.get(path, headers=BROWSER)).headers
            policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert not any("unsafe" in part for part in policy.values())
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"


async def test_a_file_that_was_not_changed_is_not_sent_again() -> None:
    """By its `ETag`; it is asked for each time, so that a new version is seen at once."""
    async with served() as at:
        first = await at.client.get("/page/app.js")
        assert first.headers["cache-control"] == "no-cache"
        again = await at.client.get("/page/app.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await at.client.get("/page/app.js", headers={"if-none-match": '"other"'})
        assert other.content == first.content


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2Fassets.py", "%2e%2e/routes.py", "__init__.py"])
async def test_no_other_file_is_sent(name: str) -> None:
    """Nothing of the package, and no folder above."""
    async with served() as at:
        answer = await at.client.get(f"/page/{name}")
        assert answer.status_code == 404


async def test_a_server_without_the_page_has_what_it_had() -> None:
    """`page = false`: a sentence for browsers."""
    async with served(settings={"page": False}) as at:
        assert (await at.client.get("/", headers=BROWSER)).text.startswith("erllama_py is running")
        assert (await at.client.get("/page/app.js")).status_code == 404


@pytest.mark.parametrize("host", HOSTS)
async def test_below_a_prefix_all_addresses_are_below_it(host: Any) -> None:
    """Of a host that mounts the application, with and without a slash at the end."""
    async with served() as at:
        transport: Any = httpx.ASGITransport(app=host(at.app))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for address in ("/llm/", "/llm"):
                page = await client.get(address, headers=BROWSER, follow_redirects=True)
                assert '<base href="/llm/">' in page.text, address
            assert (await client.get("/llm/page/app.js")).status_code == 200
        assert "<base" not in (await at.client.get("/", headers=BROWSER)).text
        assert "<title>" in (await at.client.get("//", headers=BROWSER)).text


@pytest.mark.parametrize("prefix", ["/llm", "/a/b/", '/"><script>', "//elsewhere.com"])
def test_a_prefix_is_text_in_the_page(prefix: str) -> None:
    """Whatever a proxy calls it."""
    body = below(load()[INDEX], prefix).body.decode()
    (base,) = re.findall(r'<base href="([^"<>]*)">', body)
    assert base.endswith("/")
    assert not base.startswith("//")  # another host
    assert "<script>" not in body


def test_the_files_are_small_and_of_known_kinds() -> None:
    """At most 400 lines each; a kind that is not known would not be sent."""
    found = sorted(STATIC.iterdir())
    assert {one.suffix for one in found} == set(MEDIA)
    assert {
        one.name: len(one.read_text().splitlines()) for one in found if len(one.read_text().splitlines()) > 400
    } == {}


def test_nothing_comes_from_elsewhere_and_no_text_becomes_markup() -> None:
    """Every address in the files is one of this server; what makes markup out of text is used nowhere."""
    for one in STATIC.iterdir():
        text = one.read_text()
        names = set(re.findall(r"https?://[^\s\"')]+", text))
        assert names <= {"http://www.w3.org/2000/svg"}, one.name  # a name space, which is not asked for
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=\"", text), one.name
        for address in re.findall(r"(?:src|href)=\"([^\"#]+)\"", text):
            assert (STATIC / address.removeprefix("page/")).is_file(), (one.name, address)
        for module in re.findall(r"from \"([^\"]+)\"", text):
            assert (STATIC / module).is_file(), (one.name, module)


def _colours(text: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text))


def _luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _schemes() -> dict[str, dict[str, str]]:
    light, _, dark = (STATIC / "base.css").read_text().partition("@media (prefers-color-scheme: dark)")
    return {"light": _colours(light), "dark": _colours(light) | _colours(dark)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_apart_in_both_schemes(scheme: str) -> None:
    """WCAG AA: 4.5 for texts on whatever they stand on, 3 for edges of fields and for what is drawn."""
    colours = _schemes()[scheme]
    assert _contrast("#ffffff", "#000000") == pytest.approx(21)
    texts = {"ink", "muted", "main", "warn", "bad", "busy"}
    pairs = [(text, ground) for text in texts for ground in ("page", "panel")]
    pairs += [("ink", "sunk"), ("muted", "sunk"), ("on-main", "main"), ("on-bad", "bad")]
    assert {pair: _contrast(*(colours[one] for one in pair)) for pair in pairs if
            _contrast(*(colours[one] for one in pair)) < 4.5} == {}  # fmt: skip
    drawn = [("edge", "panel"), ("ok", "panel"), ("busy", "sunk")]
    assert {pair: _contrast(*(colours[one] for one in pair)) for pair in drawn if
            _contrast(*(colours[one] for one in pair)) < 3} == {}  # fmt: skip
