"""The command `erllama`: `erllama demo` shows a model answering, crashing and coming back."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import erllama_py as erllama
from erllama_py.serve.demo import demo
from erllama_py.serve.models import fetch


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(prog="erllama", description="Local GGUF models for asyncio, supervised.")
    top.add_argument("--version", action="version", version=f"erllama_py {erllama.__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    show = commands.add_parser("demo", help="load a model, answer, crash, come back")
    show.add_argument("--model", type=Path, help="a GGUF file; SmolLM2-135M-Instruct is fetched without it")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors of the library are one line on stderr."""
    options = parser().parse_args(arguments)
    try:
        asyncio.run(demo(options.model or fetch("smollm2")))
    except erllama.ErllamaError as error:
        print(f"erllama: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
