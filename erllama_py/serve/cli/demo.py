"""`erllama demo`: a model answers, crashes in the middle of an answer, and goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from erllama_py.serve.cli.ending import DONE


def demo(*, model: Path | None = None) -> int:
    """Load a model, let it answer, crash it in the middle of an answer, and watch that go on.

    Parameters
    ----------
    model
        A GGUF file; without it SmolLM2-135M-Instruct is fetched, a model of 94 MiB.
    """
    from erllama_py.serve.demo import demo as show
    from erllama_py.serve.models import fetch

    asyncio.run(show(model or fetch("smollm2")))
    return DONE
