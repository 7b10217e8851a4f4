"""The task of telling what a build of llama.cpp is, and which devices it finds, as JSON in one word.

Devices are initialised for that, which takes seconds with some drivers, and may end this process.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

from erllama_py.engine.children.bindings import open_bindings
from erllama_py.engine.children.codes import DONE
from erllama_py.engine.children.entry import say

_KINDS = {1: "gpu", 2: "igpu", 3: "accel"}  # ggml_backend_dev_type


def run(given: dict[str, Any]) -> int:
    """`given`: `folder` of the bindings."""
    say("stage library")
    c = open_bindings(given["folder"])
    info = (c.llama_print_system_info() or b"").decode(errors="replace")
    told: dict[str, Any] = {"system_info": info, "offloads": bool(c.llama_supports_gpu_offload()), "devices": []}
    say(f"info {json.dumps(told)}")
    told["devices"] = _devices(c._lib)
    say(f"info {json.dumps(told)}")
    return DONE


def _devices(library: Any) -> list[dict[str, Any]]:
    """What ggml lists but for CPUs. Its functions are found through llama.cpp's library, which is linked with it."""
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_type.restype = ctypes.c_int
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("name", "description"):
        getattr(library, f"ggml_backend_dev_{name}").restype = ctypes.c_char_p
    found = []
    for number in range(library.ggml_backend_dev_count()):
        device = ctypes.c_void_p(library.ggml_backend_dev_get(number))
        kind = _KINDS.get(library.ggml_backend_dev_type(device))
        if kind is None:
            continue
        free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
        library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        texts = [getattr(library, f"ggml_backend_dev_{name}")(device) or b"" for name in ("name", "description")]
        name, description = (text.decode(errors="replace") for text in texts)
        found.append({"name": name, "description": description, "kind": kind, "free": free.value, "total": total.value})
    return found
