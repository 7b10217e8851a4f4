"""The border to llama.cpp: the only file that imports `llama_cpp`.

`library()` imports the bindings when it is first called (any thread; the import takes a tenth of a second
and more), initialises the backends of llama.cpp once for the process and routes its log. The bindings'
functions are reached in two ways:

- `Library.c` is the bindings' module. Its functions release the GIL: for calls that take long.
- `Library.quick` has twins of the short ones that keep the GIL. Releasing it around a call of a microsecond means
  queueing for it again, up to a switch interval (5 ms) when the event loop is busy, which is as long as a whole decode.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erllama_py.engine.llama import logs, openmp

_QUICK = (
    "llama_get_logits",
    "llama_get_memory",
    "llama_memory_seq_cp",
    "llama_memory_seq_pos_max",
    "llama_memory_seq_pos_min",
    "llama_memory_seq_rm",
    "llama_sampler_accept",
    "llama_sampler_apply",
    "llama_set_n_threads",
    "llama_state_seq_get_size",
    "llama_token_to_piece",
    "llama_vocab_get_attr",
    "llama_vocab_is_eog",
)

_NOT_ARITHMETIC = ("OPENMP",)

_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class Quick:
    """Twins that keep the GIL, by the C name without `llama_`."""

    def __init__(self, module: Any) -> None:
        twin_library = ctypes.PyDLL(module._lib._name, handle=module._lib._handle)
        for name in _QUICK:
            original = getattr(module, name)
            twin = getattr(twin_library, name)
            twin.argtypes, twin.restype = original.argtypes, original.restype
            setattr(self, name.removeprefix("llama_"), twin)
        # As an address: the bindings' pointer objects cost more than the call.
        self.get_logits.restype = ctypes.c_void_p

    def __getattr__(self, name: str) -> Any:  # for the type checker: the functions are set by name
        raise AttributeError(name)


class Gguf:
    """The `gguf_*` functions of ggml, by the C name without `gguf_`; they read a file's header.

    The bindings do not declare them, but the symbols are found through libllama's handle. Those that read a
    value end the process when its type is another one: ask `get_kv_type` first.
    """

    def __init__(self, handle: ctypes.CDLL) -> None:
        ptr, key, text, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p, ctypes.c_size_t
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "init_from_file": (ptr, [text, GgufInitParams]),
            "free": (None, [ptr]),
            "get_data_offset": (size, [ptr]),
            "find_key": (key, [ptr, text]),
            "get_kv_type": (ctypes.c_int, [ptr, key]),
            "get_arr_type": (ctypes.c_int, [ptr, key]),
            "get_arr_n": (size, [ptr, key]),
            "get_arr_data": (ptr, [ptr, key]),
            "get_arr_str": (text, [ptr, key, size]),
            "get_val_data": (ptr, [ptr, key]),
            "get_val_str": (text, [ptr, key]),
            "get_n_tensors": (key, [ptr]),
            "find_tensor": (key, [ptr, text]),
            "get_tensor_name": (text, [ptr, key]),
            "get_tensor_offset": (size, [ptr, key]),
            "get_tensor_size": (size, [ptr, key]),
            "get_tensor_type": (ctypes.c_int, [ptr, key]),
        }
        for name, (restype, argtypes) in signatures.items():
            function = getattr(handle, f"gguf_{name}")
            function.restype, function.argtypes = restype, argtypes
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # for the type checker: the functions are set by name
        raise AttributeError(name)


class GgufInitParams(ctypes.Structure):
    """`struct gguf_init_params`."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class Library:
    """llama.cpp, ready to use."""

    def __init__(self) -> None:
        with openmp.short_spin():
            _open_without_the_gil()
        import llama_cpp
        import numpy
        from llama_cpp import llama_cpp as bindings

        self.c: Any = bindings
        # The bindings need numpy and import it; handed out here so that none of it is imported before.
        self.numpy: Any = numpy
        self.quick = Quick(self.c)
        self.gguf = Gguf(self.c._lib)
        # The bindings print to stderr through a callback of their own; ours takes its place before anything
        # is said. It is kept here because C code holds its address for as long as the process lives.
        self._log_callback = ctypes.cast(_LOG_CALLBACK(logs.receive), self.c.llama_log_callback)
        self.c.llama_log_set(self._log_callback, None)
        self.c.llama_backend_init()
        self._pause_threads = openmp.pause_function(self.c._lib)
        self._malloc_trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
        system_info: bytes = self.c.llama_print_system_info() or b""
        self.build = build_name(
            llama_cpp.__version__, self._ggml("version"), self._ggml("commit"), system_info.decode(errors="replace")
        )
        self._file_types = _file_types(self.c)
        self.tensor_types = {
            number: self._ggml("type_name", number).lower() for number in range(self.c.GGML_TYPE_COUNT)
        }

    @contextmanager
    def log_to_stderr(self) -> Iterator[None]:
        """Have llama.cpp write its messages to standard error meanwhile, as it does where nobody asks for them."""
        self.c.llama_log_set(self.c.llama_log_callback(), None)
        try:
            yield
        finally:
            self.c.llama_log_set(self._log_callback, None)

    def give_back_memory(self) -> None:
        """Return freed memory to the system, where the C library can (glibc).

        Each engine thread allocates from an arena of its own, and glibc keeps what was freed in it: tens of
        megabytes of vocabulary and graph after a model is gone.
        """
        if self._malloc_trim is not None:
            self._malloc_trim(0)

    def give_back_threads(self) -> None:
        """End the threads that have computed for the thread that calls this; its next decode makes new ones."""
        if self._pause_threads is not None:
            self._pause_threads(openmp.SOFT)

    def fail_assertion(self) -> None:
        """End the process as a failed assertion of ggml does: with its line on standard error, and by `abort()`."""
        self.c._lib.ggml_abort(b"drill.c", 1, b"GGML_ASSERT(%s) failed", b"false")

    def file_type(self, number: int) -> str | None:
        """Name of a `llama_ftype` as in file names, `None` if there is no such type."""
        return self._file_types.get(number & ~self.c.LLAMA_FTYPE_GUESSED)  # a flag beside a type not stated

    def _ggml(self, what: str, *arguments: int) -> str:
        function = getattr(self.c._lib, f"ggml_{what}")
        function.restype = ctypes.c_char_p
        text: bytes | None = function(*arguments)
        return (text or b"").decode()


def build_name(version: str, ggml: str, commit: str, system_info: str) -> str:
    """The build as it is in every key and in the header of every row: builds that may compute different bits have
    different names."""
    return f"llama-cpp-python {version}, ggml {ggml} ({commit}), cpu {cpu_features(system_info)}"


def cpu_features(system_info: str) -> str:
    """What llama.cpp's CPU part was compiled for, of what can change how it rounds, from `llama_print_system_info`.

    That says `CUDA : ARCHS = 800 | CPU : SSE3 = 1 | AVX = 1 | OPENMP = 1 | ` for `avx sse3`; a number other than 1 is
    kept. OpenMP only deals out the work. Devices are left out: see `cache.keys`.
    """
    features, device = [], ""
    for part in system_info.split("|"):
        title, colon, rest = part.rpartition(" : ")
        if colon:
            device = title.strip()
        name, _, value = (word.strip() for word in rest.partition("="))
        if device == "CPU" and name and name not in _NOT_ARITHMETIC and value != "0":
            features.append(name.lower() if value == "1" else f"{name.lower()}={value}")
    return " ".join(sorted(features))


def _file_types(module: Any) -> dict[int, str]:
    """Names as in file names by value: `LLAMA_FTYPE_MOSTLY_Q4_K_M = 15` gives `{15: "q4_k_m"}`."""
    prefix = "LLAMA_FTYPE_"
    return {
        value: name.removeprefix(prefix).removeprefix("MOSTLY_").removeprefix("ALL_").lower()
        for name, value in vars(module).items()
        if name.startswith(prefix) and not name.endswith("_GUESSED")
    }


def package_folder() -> Path | None:
    """Where the bindings lie, which are not imported for it; None without them."""
    package = importlib.util.find_spec("llama_cpp")
    return None if package is None or package.origin is None else Path(package.origin).parent


def library_files() -> list[tuple[str, int, int]]:
    """Name, bytes and mtime of each library that the bindings open, which tell one build of llama.cpp from another
    before it is opened."""
    package, given = package_folder(), os.environ.get("LLAMA_CPP_LIB_PATH")
    folder = Path(given) if given else None if package is None else package / "lib"
    if folder is None or not folder.is_dir():
        return []
    files = [path for path in sorted(folder.iterdir()) if ".so" in path.name or path.suffix == ".dylib"]
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _open_without_the_gil() -> None:
    """Have the shared library in memory before the bindings open it. `ctypes.CDLL` holds the GIL while the system
    reads, links and initialises the library: some milliseconds, and tens of them from a cold disk, in which an event
    loop stalls. C's own `dlopen`, called as a foreign function, does the same work without the GIL; the bindings
    then only count one more user."""
    package = package_folder()
    if package is None:
        return  # the import that follows says what is wrong
    folder = package / "lib"
    opener = ctypes.CDLL(None).dlopen
    opener.argtypes, opener.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    for name in ("libllama.so", "libllama.dylib"):
        if (folder / name).exists():
            opener(bytes(folder / name), os.RTLD_NOW)


class AbortFlag:
    """What makes a running decode stop early: one byte that C code looks at between two graph nodes.

    llama.cpp asks a callback. A Python one would need the GIL some hundred times in each decode, so C's own
    `strlen` is the callback and the flag its argument: as an empty string it has length 0, which says go on,
    as `"x"` length 1, which says stop. (llama.cpp reads a bool: the lowest byte of the result.)
    """

    def __init__(self, library: Library) -> None:
        self._flag = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, library.c.ggml_abort_callback)
        self.data = ctypes.addressof(self._flag)

    def set(self, stop: bool) -> None:
        """From any thread; the store of one byte is seen as a whole."""
        self._flag[0] = b"x" if stop else b"\0"


_lock = threading.Lock()
_library: Library | None = None


def library() -> Library:
    """llama.cpp, imported and initialised by the first call; later calls return at once."""
    global _library
    with _lock:
        if _library is None:
            _library = Library()
        return _library
