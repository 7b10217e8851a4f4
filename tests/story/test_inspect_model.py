"""`inspect_model`: what it says of a file is what a load says, and no weights are read for it."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_bert import tiny_bert
from helpers.tiny_gguf import BROKEN, KINDS, Broken, Kind, broken_gguf, split_gguf, tiny_gguf
from helpers.tiny_t5 import tiny_t5
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.engine.children.ended import Ended
from erllama_py.engine.llama import logs, probe
from erllama_py.engine.llama.logs import LogContext
from erllama_py.model_file import SMALLEST, default_sizes
from erllama_py.serve.models import fetch

SAME = ("quant_type", "quant_bits", "n_params", "size", "n_vocab", "n_ctx_train", "n_embd", "can_generate", "can_rank")


async def loaded(path: Path, **context: Any) -> tuple[erllama.ModelInfo, erllama.ChatFormat, list[str]]:
    """What a load says, how its conversations are written, and the lines in which llama.cpp tells its sizes."""
    lines: list[str] = []
    emit = LogContext._emit

    def listen(context: LogContext, level: Any, line: str) -> None:
        lines.append(line)
        emit(context, level, line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogContext, "_emit", listen)
        async with erllama.Runtime() as runtime:
            config: Any = {"model_path": path, "context_opts": context}
            model = await runtime.load_model(config)
            return model.info, await model.chat_format(), lines


def cells(lines: list[str]) -> int:
    sizes = [re.search(r"(?:kv_cache|memory_recurrent)\w*: size = +([\d.]+) MiB", line) for line in lines]
    return int(sum(float(size[1]) for size in sizes if size) * (1 << 20))


async def check_against_a_load(path: Path) -> erllama.ModelFile:
    """Everything that both know, and the memory of a context of 4,096 cells for 8 sequences."""
    context: erllama.ContextOptsDict = {"n_seq_max": 8, "type_k": "q8_0"}
    told = erllama.inspect_model(path, context_opts=context, context_sizes=[4096])
    info, chat, lines = await loaded(path, n_ctx=4096, **context)
    assert {name: getattr(told, name) for name in SAME} == {name: getattr(info, name) for name in SAME}
    assert (told.description, told.pooling, told.path) == (info.description, info.pooling, info.model_path)
    assert (told.chat_template, told.chat_templates) == (chat.template, chat.templates)
    assert (told.tool_format, told.thinking) == (chat.tool_format, chat.thinking)
    assert told.thinking_switch == chat.thinking_switch
    if told.can_generate:
        (taken,) = told.contexts
        assert taken.n_ctx == 4096
        assert taken.cell_bytes == cells(lines) > 0
        assert taken.compute_bytes > 0
    else:
        assert told.contexts == ()
    return told


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_it_says_what_a_load_says(tmp_path: Path, kind: Kind) -> None:
    """Of each kind of memory."""
    told = await check_against_a_load(tiny_gguf(kind, tmp_path))
    memories = {"dense": "full", "window": "window", "recurrent": "recurrent", "hybrid": "hybrid"}
    assert told.memory == memories[kind]
    assert (told.sliding_window > 0) == (kind == "window")
    assert (told.name, told.tool_format, told.thinking) == (f"tiny {kind}", "hermes", None)
    assert told.chat_template is not None
    assert told.metadata["general.architecture"] == told.architecture
    assert not any("chat_template" in key for key in told.metadata)


@pytest.mark.anyio
@pytest.mark.parametrize("ranks", [False, True])
async def test_it_tells_encoders_from_models_that_generate(tmp_path: Path, ranks: bool) -> None:
    """They have no context of their own."""
    told = await check_against_a_load(tiny_bert(tmp_path, ranks=ranks))
    assert (told.can_generate, told.can_rank, told.kv_bytes_per_token) == (False, ranks, 0)


@pytest.mark.either_loop
@pytest.mark.anyio
@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smollm2", "gemma3", "minilm"])
async def test_it_says_of_a_real_model_what_a_load_says(name: str) -> None:
    """A dense one, one with a window, and an encoder."""
    told = await check_against_a_load(fetch(name))
    assert told.kv_bytes_per_token == {"smollm2": 23_040, "gemma3": 18_432, "minilm": 0}[name]


@pytest.mark.slow
def test_no_weights_are_read(tmp_path: Path) -> None:
    """A file whose weights are a hole says the same."""
    whole = tiny_gguf("dense", tmp_path)
    told = erllama.inspect_model(whole)
    offset = told.file_size - told.size
    hollow = tmp_path / "hollow.gguf"
    hollow.write_bytes(whole.read_bytes()[:offset])
    os.truncate(hollow, told.file_size)
    again = erllama.inspect_model(hollow)
    assert again.contexts == told.contexts
    assert (again.description, again.metadata) == (told.description, told.metadata)


def test_a_model_in_several_files_is_one(tmp_path: Path) -> None:
    """By the path of the first."""
    parts = split_gguf("dense", tmp_path)
    told = erllama.inspect_model(parts[0])
    assert told.n_files == len(parts)
    assert told.file_size == sum(part.stat().st_size for part in parts)


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_model_is_refused_as_by_a_load(tmp_path: Path, how: Broken) -> None:
    """By the class that a load raises, with the path."""
    with pytest.raises(erllama.ModelLoadError) as caught:
        erllama.inspect_model(broken_gguf(how, tmp_path))
    assert caught.value.problem


def test_a_model_that_cannot_run_says_so(tmp_path: Path) -> None:
    """An encoder and a decoder in one."""
    with pytest.raises(erllama.UnsupportedModel, match="encoder of their own"):
        erllama.inspect_model(tiny_t5("t5", tmp_path))


@pytest.mark.parametrize("sizes", [[0], [-1], ["4096"], [1 << 40], [True], [7]])
def test_sizes_are_checked(sizes: Any) -> None:
    """Before the file is opened."""
    with pytest.raises(erllama.InvalidOption) as caught:
        erllama.inspect_model("missing.gguf", context_sizes=sizes, context_opts={"n_seq_max": 8})
    assert caught.value.option == "context_sizes[0]"


def test_options_of_the_context_are_checked() -> None:
    """As those of a load."""
    with pytest.raises(erllama.InvalidOption, match=r"context_opts\.n_seq_max"):
        erllama.inspect_model("a.gguf", context_opts={"n_seq_max": 0})


@given(st.integers(0, 1 << 21))
def test_sizes_grow_up_to_the_trained_context(n_ctx_train: int) -> None:
    """The last is that itself; a file that names none has one size."""
    sizes = default_sizes(n_ctx_train)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == (n_ctx_train or SMALLEST)
    assert all(size & (size - 1) == 0 and size >= SMALLEST for size in sizes[:-1])


def test_an_interrupt_is_not_lost_while_llama_cpp_writes_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a callback raises goes nowhere, so none runs where signals are handled."""
    path, finish, lines = tiny_gguf("dense", tmp_path), logs._finish_line, list[int]()

    def interrupted() -> None:
        if sys._getframe(1).f_code is logs.receive.__code__:  # called by llama.cpp
            lines.append(1)
            if len(lines) == 1:
                os.kill(os.getpid(), signal.SIGINT)
        finish()

    with monkeypatch.context() as patch:
        patch.setattr(logs, "_finish_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erllama.inspect_model(path)
    assert lines
    assert erllama.inspect_model(path).n_files == 1


def test_an_interrupt_ends_the_child_in_which_a_file_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hang, and Ctrl-C would do nothing for as long as it has time."""
    ends: list[str] = []

    def run(task: str, given: Any, *, seconds: float, wanted: Callable[[], bool]) -> Ended:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 10
        while wanted() and time.monotonic() < deadline:
            time.sleep(0)
        ends.append("out of time" if wanted() else "unwanted")
        return Ended("unwanted", -9, "SIGKILL", (), "", 0.1)

    monkeypatch.setattr(probe, "run_child", run)
    monkeypatch.setattr(probe, "_passed", set())
    monkeypatch.setenv("ERLLAMA_HOME", str(tmp_path / "home"))
    with pytest.raises(KeyboardInterrupt):
        erllama.inspect_model(tiny_gguf("dense", tmp_path))
    assert ends == ["unwanted"]
