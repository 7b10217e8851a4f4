"""The Python in the documents runs: page by page, block after block in one namespace, `await` allowed.

Model paths on the pages (`/srv/models/….gguf`) are read as the small model that `make test` fetches, `minilm.gguf` as
the one for embeddings, and other paths below `/var/lib` as a scratch folder. A local hub has a tiny model under each
name that a page calls one by. A block that cannot run has a line
`<!-- not run: the reason -->` above it; there are few of these, and their number is written here. Blocks of
clients that have `<!-- judged with: packages -->` are run by `make judge`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.hub import FakeHub
from helpers.loggers import logging_put_back
from helpers.project import documents, fenced, label
from helpers.tiny_gguf import tiny_gguf
from opentelemetry import trace
from opentelemetry.util._once import Once

from erllama_py import HubReference
from erllama_py.serve.models import fetch

MAX_NOT_RUN = 4
NOT_RUN = re.compile(r"<!-- not run: (\S.*) -->")
SET_APART = re.compile(r"<!-- (not run|judged with): (\S.*) -->")

PAGES = [page for page in documents() if fenced(page, "python")]

pytestmark = pytest.mark.anyio


def runnable(page: Path) -> list[tuple[str, int]]:
    """The blocks of a page that run: text and line."""
    return [(text, line) for above, text, line in fenced(page, "python") if not SET_APART.fullmatch(above)]


def localized(text: str, model: Path, scratch: Path) -> str:
    """A block with the pages' example paths put where they exist."""
    text = re.sub(r"/srv/models/minilm\.gguf", lambda _: str(fetch("minilm")), text)
    text = re.sub(r"/srv/models/[\w.\-]+\.gguf", lambda _: str(model), text)
    return text.replace("/var/lib", str(scratch))


@contextmanager
def hub_of_pages(page: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While a page runs that names models of the hub."""
    names = {HubReference.parse(name) for text, _ in runnable(page) for name in re.findall(r'"(hf:[^"]+)"', text)}
    if not names:
        yield
        return
    with FakeHub().running() as hub:
        hub.patch(monkeypatch, scratch / "hub")
        for name in names:
            hub.add(name.repo, {f"{name.name}.gguf": tiny_gguf("dense", scratch).read_bytes()})
        yield


async def run(text: str, name: str, line: int, namespace: dict[str, Any]) -> None:
    """Run one block as a module body in which `await` is allowed; tracebacks name the page and its line."""
    code = compile("\n" * (line - 1) + text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, namespace)
    if inspect.isawaitable(result):
        await result


@pytest.fixture
def anyio_backend() -> str:
    """On one loop: pages take long, and what loops differ in is tested elsewhere."""
    return "asyncio"


@pytest.fixture
def logging_of_a_page() -> Iterator[None]:
    """Pages set levels, and frameworks in them set handlers: neither is left to the tests that follow."""
    with logging_put_back():
        yield


@pytest.fixture
def traces_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has one provider of spans, set once: that of a page goes with it."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.usefixtures("logging_of_a_page", "traces_of_a_page")
@pytest.mark.parametrize("page", PAGES, ids=label)
async def test_the_snippets_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block may use what the blocks above it on the page have defined."""
    model = fetch("smollm2")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "snippet"}
    with hub_of_pages(page, tmp_path, monkeypatch):
        for text, line in runnable(page):
            await run(localized(text, model, tmp_path), label(page), line, namespace)


def test_few_snippets_are_not_run_and_each_says_why() -> None:
    """The marker is for what needs another machine, not for what is broken."""
    marked = [label(page) for page in PAGES for above, _, _ in fenced(page, "python") if NOT_RUN.fullmatch(above)]
    assert len(marked) <= MAX_NOT_RUN


async def test_the_runner_awaits_and_shares_one_namespace() -> None:
    """A block with `async with` at its top, then one that uses a name of the first."""
    namespace: dict[str, Any] = {}
    await run("import asyncio\nawait asyncio.sleep(0)\nasync with asyncio.Lock():\n    value = 1\n", "a", 1, namespace)
    await run("value += 1\n", "a", 6, namespace)
    assert namespace["value"] == 2


async def test_an_error_in_a_snippet_names_the_page_and_the_line() -> None:
    """So that it is found where it is written."""
    with pytest.raises(ZeroDivisionError) as raised:
        await run("x = 1\nx / 0\n", "docs/page.md", 40, {})
    assert raised.traceback[-1].lineno == 41 - 1  # counted from 0
    assert str(raised.traceback[-1].path).endswith("page.md")


def test_example_paths_are_put_where_they_exist() -> None:
    """Any model below the example folder is the one that was fetched."""
    text = localized('load("/srv/models/a-1.Q4_K.gguf", "/var/lib/erllama")', Path("/m/x.gguf"), Path("/s"))
    assert text == 'load("/m/x.gguf", "/s/erllama")'
