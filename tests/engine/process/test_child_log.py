"""What a child logs is logged by its parent, and its last lines are kept."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from helpers.project import PACKAGE
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.process.inside.child_log import ChildLogger, get_logger, send_to
from erllama_py.engine.process.life.death import MOST_LINES
from erllama_py.engine.process.life.last_lines import LastLines
from erllama_py.watch.log import LLAMA_CPP

NAMED = ("erllama_py", "info", "a name ?", {"path": "?"})  # a file's name may have no UTF-8 form

Record = tuple[str, str, str, dict[str, Any]]


def test_records_wait_for_the_sink_and_keep_their_facts() -> None:
    """Which are plain, an error with its traceback."""
    records: list[Record] = []
    log: ChildLogger = get_logger(LLAMA_CPP, model="m")
    log.warning("before", size=5, path=b"x")
    send_to(lambda *record: records.append(record))
    try:
        raise ValueError("no")
    except ValueError as error:
        log.error("after", exc_info=error)
    get_logger().debug("a detail")
    get_logger().info("a fact", model=None)
    get_logger().info("a name \udcff", path="\udcff")
    assert records[0] == (LLAMA_CPP, "warning", "before", {"model": "m", "size": 5, "path": "b'x'"})
    assert records[1][:3] == (LLAMA_CPP, "error", "after")
    assert "ValueError: no" in records[1][3]["exception"]
    assert records[2:] == [
        ("erllama_py", "debug", "a detail", {}),
        ("erllama_py", "info", "a fact", {"model": None}),
        NAMED,
    ]


def test_it_stands_in_for_the_logger_and_imports_little() -> None:
    """What the engine imports by the name of the other is this one, without structlog."""
    code = (
        "import sys, types\n"
        f"sys.path[:] = {sys.path!r}\n"
        f"for name, folder in (('erllama_py', {str(PACKAGE)!r}), ('erllama_py.engine', {str(PACKAGE / 'engine')!r})):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [folder]\n"
        "from erllama_py.engine.process.inside.child_log import stand_in\n"
        "stand_in()\n"
        "from erllama_py.engine.llama.logs import LogContext\n"
        "import erllama_py.watch.log as log\n"
        "print(log.__name__, 'structlog' in sys.modules, 'logging' in sys.modules, 'asyncio' in sys.modules)\n"
    )
    said = subprocess.check_output([sys.executable, "-I", "-S", "-c", code], text=True)
    assert said == "erllama_py.engine.process.inside.child_log False False False\n"


def test_the_lines_of_a_child_are_logged_with_its_model(caplog: pytest.LogCaptureFixture) -> None:
    """With the level that they had; those of native code are kept too, for the report of a crash."""
    lines = LastLines("m")
    with caplog.at_level(logging.DEBUG, "erllama_py"):
        lines.log(LLAMA_CPP, "debug", "loading", {"source": "llama.cpp", "model": "m"})
        lines.log("erllama_py", "warning", "a sequence is lost", {"keep": 3})
        lines.log("erllama_py", "shout", "an unknown level", {})
        lines.write("GGML_ASSERT(no) failed")
    assert lines.last() == (("loading", True), ("GGML_ASSERT(no) failed", False))
    levels = [(record.name, record.levelname) for record in caplog.records]
    assert levels == [
        (LLAMA_CPP, "DEBUG"), ("erllama_py", "WARNING"), ("erllama_py", "WARNING"), (LLAMA_CPP, "WARNING")
    ]  # fmt: skip
    assert all("model='m'" in record.getMessage() for record in caplog.records)


def test_of_lines_that_differ_in_numbers_alone_the_last_is_kept() -> None:
    """Those that come with each decode do not push out what was said before them; a trace is kept as it is."""
    lines = LastLines("m")
    lines.log(LLAMA_CPP, "warning", "a cache is padded", {})
    for number in range(5 * MOST_LINES):
        lines.log(LLAMA_CPP, "debug", f"set_n_threads: n_threads = {number}", {})
    frames = ['  File "engine.py", line 1 in go', '  File "engine.py", line 2 in go']
    for frame in frames:
        lines.write(frame)
    kept = ("a cache is padded", f"set_n_threads: n_threads = {5 * MOST_LINES - 1}", *frames)
    assert tuple(line.text for line in lines.last()) == kept
    assert [line.chatter for line in lines.last()] == [False, True, False, False]


@given(st.lists(st.sampled_from(["a 1", "a 2", "b 1", "b", "trace"]), max_size=300))
def test_the_newest_of_all_that_differ_are_kept_in_their_order(said: list[str]) -> None:
    """No more than there is room for."""
    lines, kept = LastLines("m"), list[str]()
    for line in said:
        if line == "trace":
            lines.write(line)
        else:
            lines.log(LLAMA_CPP, "debug", line, {})
            kept = [other for other in kept if other.rstrip("12") != line.rstrip("12")]
        kept = [*kept, line][-2 * MOST_LINES :]
    assert [line.text for line in lines.last()] == kept
