"""The task of loading a model file for the first time: its vocabulary, and the graph of a context over it, no weights.

Each stage is said before it begins. What llama.cpp refuses in order is no business of a child: its parent is told so
there too, with the same reason. The memory and the CPU time of the process are bounded, so that a file that would take
all there is ends the child before; its thread has less stack than any that does the same in the application. No device
is used.

The process may be one for this alone, or the one that is to hold the model: see `engine.process.inside.trying`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from erllama_py.engine.children.bindings import fill, open_bindings, without_devices
from erllama_py.engine.children.codes import DONE, FAILED, REFUSED, WRONG
from erllama_py.engine.children.entry import say
from erllama_py.engine.children.probe_texts import read_texts
from erllama_py.own_data import own_bytes

_STACK_BYTES = 3 << 20  # `erllama_py.stacks` gives 4 MiB or more, of which callers have used a little


def run(given: dict[str, Any]) -> int:
    """`given`: `folder` of the bindings, `path`, `vocab_only`, and `context`: the fields of a context's parameters,
    None where none is to be made; `most_bytes` of memory; `text_seconds` of CPU time for the texts."""
    codes: list[int] = []
    begin(given, lambda: open_bindings(given["folder"]), codes.append).join()
    return codes[0]


def begin(given: dict[str, Any], library: Callable[[], Any], over: Callable[[int], object]) -> threading.Thread:
    """On the main thread: begin another one that does it, with the functions that `library` gives, and calls `over`
    with what `run` returns. Its limits end with it, as the process may go on."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # whatever the application does with it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    thread = threading.Thread(target=_try, args=(given, library, over), name="erllama-try", daemon=True)
    before = threading.stack_size(_STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
    return thread


def _try(given: dict[str, Any], library: Callable[[], Any], over: Callable[[int], object]) -> None:
    code = FAILED
    try:
        say("stage library")
        code = _load(library(), given)
    except MemoryError as error:
        code = REFUSED
        print(repr(error), file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        over(code)


@contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """Let this process have so many bytes more of its own meanwhile, where the system can say so."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(OSError, ValueError):
        least = min(bound for bound in (own_bytes() + most, *before) if bound != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, (least, before[1]))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _load(c: Any, given: dict[str, Any]) -> int:
    with bounded_memory(given["most_bytes"]):  # what the file takes; a context is as large as it was asked for
        model, code = _vocabulary(c, given)
    if code == DONE and given["context"] is not None and not c.llama_model_has_encoder(model):
        say("stage graph")
        context = c.llama_init_from_model(model, fill(c.llama_context_default_params(), given["context"]))
        if not context:
            c.llama_model_free(model)
            return REFUSED
        c.llama_free(context)
    if code == DONE:
        say("stage end")
        c.llama_model_free(model)
    return code


def _vocabulary(c: Any, given: dict[str, Any]) -> tuple[Any, int]:
    """The model, once its vocabulary has been tried; and what came of that."""
    say("stage load")
    devices = without_devices()
    params = fill(
        c.llama_model_default_params(), {"no_alloc": not given["vocab_only"], "vocab_only": given["vocab_only"]}
    )
    params.load_mode, params.n_gpu_layers = 0, 0  # mapped files cannot be laid out without memory
    params.devices = ctypes.addressof(devices)
    model = c.llama_model_load_from_file(os.fsencode(given["path"]), params)
    if not model:
        return None, REFUSED
    say("stage vocabulary")
    with _bounded_time(given["text_seconds"]):
        problem = read_texts(c, c.llama_model_get_vocab(model))
    if problem is not None:
        print(problem, file=sys.stderr)
        return model, WRONG
    return model, DONE


@contextmanager
def _bounded_time(seconds: float) -> Iterator[None]:
    """After so much CPU time SIGPROF ends the process."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
