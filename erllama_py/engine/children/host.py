"""The task of holding one model: its weights, its engines and its embedders, until its parent says so or is gone."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sys
from typing import Any

from erllama_py.engine.children.entry import bare_package
from erllama_py.engine.children.traces import show_traces
from erllama_py.engine.children.uncaught import end_uncaught, end_with


def run(given: dict[str, Any]) -> int:
    """`given`: `control`, the descriptor of the socket that the parent talks through; `model_id`; `switch_seconds`;
    `bindings`: the version of those of llama.cpp, where the parent has them; `cpu_row`: the descriptor of the table of
    who has the CPUs, and the number of the row that is this process's; what `engine.process.inside.host` takes."""
    show_traces()
    end_uncaught()
    try:
        return _hold(given)
    except BaseException as error:
        end_with(error)


def _hold(given: dict[str, Any]) -> int:
    importlib.import_module(
        "erllama_py.engine.process.inside.child_log"
    ).stand_in()  # before anything that logs is imported
    if (row := given.get("cpu_row")) is not None:
        importlib.import_module("erllama_py.engine.compute_threads").PROCESS.join(*row)
        os.close(row[0])
    if (version := given["bindings"]) is not None:
        _bare_bindings(version)
    host = importlib.import_module("erllama_py.engine.process.inside.host")
    return int(host.serve(socket.socket(fileno=given["control"]), given))


def _bare_bindings(version: str) -> None:
    """Have the declarations of llama.cpp's functions without the rest of their package, which takes several times
    longer to import."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is not None and spec.origin is not None:
        bare_package("llama_cpp", os.path.dirname(spec.origin))
        vars(sys.modules["llama_cpp"]).update(__spec__=spec, __version__=version)
