"""Every async test runs on asyncio and, as one of the slow ones, on uvloop; the longest, and those of rooms above the
library, on one of the two in turn."""

from __future__ import annotations

import gc
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from helpers.instant_copies import instant_copies
from helpers.loggers import levels
from helpers.runtime import forget_engine_threads
from hypothesis import settings

from erllama_py.cpus import read_allowance
from erllama_py.serve.models import default_home

MOST_WORKERS = 4
# What stands on the library and has no loop of its own: half of its tests on each loop show what the other half would.
IN_TURN = ("hub", "serve")
# `make quick` looks at 15 examples of each property; `make test` at all that "ci" has.
settings.register_profile("quick", settings.get_profile("ci"), max_examples=15)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    backend: tuple[str, dict[str, bool]] = request.param
    return backend


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of the run's own, with the models of the user's: fingerprints of the files of tests stay out of it."""
    models, folder = default_home() / "models", tmp_path_factory.mktemp("home")
    models.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(models.resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERLLAMA_HOME", str(folder))
        yield


@pytest.fixture(scope="module", autouse=True)
def loggers() -> Iterator[None]:
    """No file of tests leaves levels of loggers behind: another file's tests would see more records, or fewer."""
    before = levels()
    yield
    assert levels() == before


@pytest.fixture(scope="module", autouse=True)
def copies(request: pytest.FixtureRequest) -> Iterator[None]:
    """Copies of cells count as instant, but in files that are marked `measured_copies`."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("measured_copies"):
            instant_copies(patch.setattr)
        yield


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: a worker for each CPU that this process may use, and four at most, since many tests have a child
    or two threads that compute. On one CPU one worker."""
    return min(MOST_WORKERS, read_allowance().threads)


def pytest_configure() -> None:
    """A shell has what it begins in the background ignore SIGINT, and so would all processes of the tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each case of a test that is marked `either_loop` or lies in one of the rooms `IN_TURN` stays on one loop. Which
    comes first is chosen by the test's name; its cases take turns by the parity of the bits of their number: where
    parameters have two values each, that is a chess board, so each value has both loops. Without the slow ones, all
    stay on asyncio."""
    if "not slow" in config.option.markexpr:
        return
    rooms = tuple(Path(__file__).parent / room for room in IN_TURN)
    tests: dict[Any, dict[str, list[pytest.Item]]] = {}
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if item.get_closest_marker("either_loop") or any(item.path.is_relative_to(room) for room in rooms):
            case = re.sub(r"\b(asyncio|uvloop)\b", "loop", item.name)
            tests.setdefault((item.parent, item.originalname), {}).setdefault(case, []).append(item)
    left_out: set[pytest.Item] = set()
    for (_, name), cases in tests.items():
        first = crc32(name.encode())
        for number, loops in enumerate(cases.values()):
            left_out.update(item for at, item in enumerate(loops) if at != (first + number.bit_count()) % len(loops))
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


def pytest_collection_finish() -> None:
    """Keep what imports and the collection made out of each later search for garbage; many tests ask for one."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test draws the same each time, in whatever order tests run: a reply without a seed may end at any token."""
    random.seed(item.nodeid)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same for what a file of tests has left, reports mostly."""
    if nextitem is None or nextitem.path != item.path:
        forget_engine_threads()
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Close what llama-cpp-python leaves open until the interpreter ends, which would be printed after the last
    line."""
    utils = sys.modules.get("llama_cpp._utils")
    for file in (getattr(utils, "outnull_file", None), getattr(utils, "errnull_file", None)):
        if file is not None:
            file.close()
