"""What a file is that is no GGUF file, and what a path is that names none, for the errors of loads. Only `at_path`
looks at the disk: it lists a directory."""

from __future__ import annotations

import os
import re

HEAD_BYTES = 512  # enough for what files begin with, and for the whole of a Git LFS pointer

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
        files = sorted(name for name in os.listdir(path) if name.lower().endswith(".gguf"))
        held = f", and has {', '.join(files[:3])}" if files else ""
        return f"it is a directory{held}: give the GGUF file itself"
    if re.search(r"(^|/)(https?|hf|file):/", path):
        return "No such file: a path is expected, not an address. Nothing is downloaded here"
    return ""
