"""`erllama` without the extra `serve`: the demo, and what to install for the rest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import erllama_py as erllama
from erllama_py.serve.cli.ending import USAGE, UsageError

INSTALL = "pip install '.[serve]' in a copy of the repository"
OTHERS = (
    "serve", "run", "complete", "batch", "inspect", "pull", "ls", "rm", "config", "key", "bench", "doctor", "top",
    "tree", "reload", "cache", "completion",
)  # fmt: skip


def dispatch(arguments: Sequence[str], missing: str) -> int:
    """Run the command; `missing` is the module that was not found. Raises `UsageError`."""
    if arguments and arguments[0] in OTHERS:
        raise UsageError(f"{missing} is not installed; `erllama {arguments[0]}` needs the extra: {INSTALL}")
    try:
        options = parser().parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE
    from erllama_py.serve.cli.demo import demo

    return demo(model=options.model)


def parser() -> argparse.ArgumentParser:
    """What there is without the extra."""
    rest = f"All other commands need the extra: {INSTALL}"
    top = argparse.ArgumentParser(prog="erllama", description="Local GGUF models, served.", epilog=rest)
    top.add_argument("--version", action="version", version=f"erllama_py {erllama.__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    show = commands.add_parser("demo", help="load a model, answer, crash, come back")
    show.add_argument("--model", type=Path, help="a GGUF file; SmolLM2-135M-Instruct is fetched without it")
    return top
