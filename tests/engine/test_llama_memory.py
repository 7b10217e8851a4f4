"""Loads of llama.cpp leak nothing: no memory, no file; and nothing is imported before the first of them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from helpers.leftovers import open_files
from helpers.structures import regex
from helpers.tiny_gguf import broken_gguf, tiny_gguf

from erllama_py.engine.backend import LoadCancelled, Slice
from erllama_py.engine.llama import LlamaBackend
from erllama_py.errors import ErllamaError
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

Configure = Callable[..., ModelConfig]
PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]
MEGABYTE = 1 << 20


def load_and_close(config: ModelConfig, cancel: bool = False) -> None:
    """One life of a backend on a thread of its own, as the engine has it."""
    steps = iter(range(1000))

    def work() -> None:
        backend = LlamaBackend("tiny", config)
        try:
            backend.load(lambda _: not cancel or next(steps) < 10)
            backend.decode([Slice(0, 0, PROMPT, True)])
            backend.sampler(Sampling(grammar=regex(".*")), []).sample(0)
        except (ErllamaError, LoadCancelled):
            pass
        backend.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loaded", "cancelled", "no-model", "no-context"])
def test_fifty_loads_leave_the_memory_of_the_process_where_it_was(models: Path, configure: Configure, how: str) -> None:
    """Each allocates some 10 MB; also when a load is cancelled half-way, or fails early or late."""
    path = broken_gguf("unknown_architecture", models) if how == "no-model" else tiny_gguf("dense", models)
    context = {"type_v": "q8_0", "flash_attn": False} if how == "no-context" else {}
    config = configure(path, n_ctx=16384, **context)
    process = psutil.Process()
    for _ in range(10):
        load_and_close(config, how == "cancelled")
    gc.collect()
    before, files = process.memory_info().rss, open_files()
    for _ in range(50):
        load_and_close(config, how == "cancelled")
    gc.collect()
    assert process.memory_info().rss - before < 8 * MEGABYTE
    assert not open_files() - files


@pytest.mark.slow
def test_the_bindings_are_imported_by_the_first_use_only() -> None:
    """Neither importing the package nor making a backend costs the import of llama.cpp's bindings."""
    program = (
        "import sys; import erllama_py; from erllama_py.engine.llama import LlamaBackend; "
        "print('llama_cpp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
