"""What a file is that is no GGUF file, and what a path is that names none, for the errors of loads. Only `at_path`
looks at the disk: it lists a directory.

`at_path` is for what is at a path, and for what is not there."""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from itertools import islice

HEAD_BYTES = 512  # enough for what files begin with, and for the whole of a Git LFS pointer
MOST_ENTRIES = 10_000  # of a directory that are looked at

_EXPECTED = "a path of a GGUF file is expected, or a model of the Hugging Face hub, as hf:owner/repo:Q4_K_M"
_CONVERT = "llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it"
_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/")
_LFS_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)
# What files begin with, and what they are.
_BEGINNINGS = (
    (b"PK\x03\x04", f"a PyTorch or zip file: {_CONVERT}"),
    (b"\x80\x02", f"a PyTorch file: {_CONVERT}"),
    (b"\x89HDF", f"an HDF5 file: {_CONVERT}"),
    (b"tjgg", "a GGML file of the time before GGUF: fetch the model as GGUF"),
    (b"lmgg", "a GGML file of the time before GGUF: fetch the model as GGUF"),
    (b"fmgg", "a GGML file of the time before GGUF: fetch the model as GGUF"),
    (b"algg", "a LoRA adapter of the time before GGUF"),
    (b"FUGG", "a GGUF file in another byte order"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"<!DOCTYPE", "a web page: the download went to a page about the file"),
    (b"<!doctype", "a web page: the download went to a page about the file"),
    (b"<html", "a web page: the download went to a page about the file"),
    (b"Entry not found", "what a hub answers for a file that it does not have"),
    (b"Invalid username", "what a hub answers without a login"),
    (b"\x7fELF", "a program"),
)


def what_it_is(head: bytes) -> str:
    """Why the file that begins with `head` is no GGUF file, as far as that can be seen."""
    if not head:
        return "it is empty"
    if _LFS.match(head):
        size = _LFS_SIZE.search(head)
        of = f" of {int(size[1]):,} bytes" if size else ""
        return f"it is a Git LFS pointer, not the file{of} that it stands for: `git lfs pull` fetches that"
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return f"it is {what}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return f"it is a safetensors file: {_CONVERT}"
    if head.lstrip()[:1] in (b"{", b"["):
        return "it is JSON, not a model"
    if head.startswith(b"\0" * len(head[:4])):
        return "it begins with zeros, as a download that was never written does"
    return "it does not begin with the GGUF magic bytes"


def at_path(path: str) -> str:
    """What is at a path that is no regular file, or what was meant by it; empty where nothing is known."""
    if os.path.isdir(path):
        files = sorted(_gguf_files(path).values())
        held = f", and has {', '.join(files[:3])}" if files else ""
        return f"it is a directory{held}: give the GGUF file itself"
    return "" if os.path.lexists(path) else _missing(path)


def _missing(path: str) -> str:
    """What may have been meant by a path at which there is nothing."""
    if file := re.search(r"(?:^|/)file:/+(.*)", path):
        return f"No such file: a path is expected, not an address: '/{file[1]}'"
    if re.search(r"(^|/)(https?|hf|ollama):/?|(^|/)(hf\.co|huggingface\.co)/", path):
        return f"No such file: this is an address; {_EXPECTED}"
    name, folder = os.path.basename(path), os.path.dirname(path)
    problem = "No such file or directory"
    if re.search(r"""(^|/)[\s"']|[\s"']$""", path):
        return f"{problem}: there is a blank or a quote around the path, or around a part of it"
    if re.search(r"\$\w|\$\{|%\w+%", path):
        return f"{problem}: variables in a path are left as they are, os.path.expandvars replaces them"
    if re.search(r"[*?]", path):
        return f"{problem}: a path is no pattern, glob.glob finds the files of one"
    if not os.path.isdir(folder):
        first = folder
        while first != os.path.dirname(first) and not os.path.isdir(os.path.dirname(first)):
            first = os.path.dirname(first)
        return f"{problem}: there is no directory {first}" + f"; {_EXPECTED}" * (not _is_gguf(name))
    if near := difflib.get_close_matches(name.lower(), names := _gguf_files(folder), n=1):
        return f"{problem}; there is {names[near[0]]}"
    return problem + f"; {_EXPECTED}" * (not _is_gguf(name))


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _gguf_files(folder: str) -> dict[str, str]:
    """The GGUF files of a directory by their names in small letters; nothing where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        return {one.name.lower(): one.name for one in islice(entries, MOST_ENTRIES) if _is_gguf(one.name)}
    return {}
