"""The try of a model file in the child that is to hold it, before there is any engine: what a short-lived one does.

The parent hears of it as of a short-lived child: standard output and standard error are its pipes meanwhile, llama.cpp
writes its messages to the latter, and Python writes no trace after them. If that ends the process, nothing was lost.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from contextlib import ExitStack
from typing import Any

from erllama_py.engine.children import probe_file
from erllama_py.engine.children.entry import say
from erllama_py.engine.children.traces import show_traces
from erllama_py.engine.process.wire.descriptors import Descriptors

_STANDARD = (1, 2)


def try_file(given: str, pipes: Descriptors) -> None:
    """Begin it. On the main thread."""
    faulthandler.disable()
    kept = [os.dup(descriptor) for descriptor in _STANDARD]
    for descriptor in _STANDARD:
        pipe = pipes.take()
        os.dup2(pipe, descriptor)
        os.close(pipe)
    log = ExitStack()

    def library() -> Any:
        from erllama_py.engine.llama.native import library

        found = library()
        log.enter_context(found.log_to_stderr())
        return found.c

    def over(code: int) -> None:
        log.close()
        say(f"done {code}")
        sys.stderr.flush()
        for before, descriptor in zip(kept, _STANDARD, strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        show_traces()

    probe_file.begin(json.loads(given), library, over)
