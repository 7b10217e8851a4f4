"""The llama.cpp backend. Its door is `LlamaBackend`; importing it does not import llama.cpp's bindings yet."""

from __future__ import annotations

from erllama_py.engine.llama.backend import LlamaBackend

__all__ = ["LlamaBackend"]
