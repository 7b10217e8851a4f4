"""llama-cpp-python's bindings in a child: its declarations of llama.cpp's functions, without the rest of the package.

The rest imports numpy and takes ten times longer. llama.cpp writes its messages to stderr, which the parent reads.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from erllama_py.engine.children.entry import bare_package


def open_bindings(folder: str) -> Any:
    """The module of the functions, initialised; `folder` is that of the package `llama_cpp`."""
    bare_package("llama_cpp", folder)
    bindings = importlib.import_module("llama_cpp.llama_cpp")
    bindings.llama_backend_init()
    return bindings


def without_devices() -> Any:
    """For `llama_model_params.devices`: an empty list, which leaves GPUs alone. To be kept while it is used."""
    return (ctypes.c_void_p * 1)(None)


def fill(params: Any, values: dict[str, Any]) -> Any:
    """Set fields of a struct, and return it."""
    for name, value in values.items():
        setattr(params, name, value)
    return params
