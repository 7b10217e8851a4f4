"""Every option of a load at its bounds, against llama.cpp itself: refused by its name, or it works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.load_bounds import CASES, CONTEXTS, MODELS, SIZES
from helpers.tiny_gguf import Kind

from erllama_py.options.model import ContextOpts, ModelOpts


def test_every_option_has_a_row_in_the_table() -> None:
    """Also those to come."""
    assert set(CONTEXTS) == set(ContextOpts.__struct_fields__)
    assert set(MODELS) == set(ModelOpts.__struct_fields__)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "cases"), [("dense", CASES), ("window", SIZES), ("hybrid", SIZES)])
def test_no_bound_of_an_option_ends_the_process(kind: Kind, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    """In a child process. What is let in decodes, and its cells can be copied; what is not names the option."""
    program = [sys.executable, "-m", "helpers.load_bounds", str(tmp_path), kind, "all" if cases is CASES else "sizes"]
    ran = subprocess.run(program, check=False, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, (lines[-1:], cases[len(lines) :][:1], ran.stderr[-1000:])
    odd = []
    for options, outcome in lines:
        works = "DONE" in outcome and "NO_CELLS" not in outcome and "restored False" not in outcome
        if not (works or outcome.startswith("InvalidOption: option '") or outcome == "tokenizer"):
            odd.append((options, outcome))
    assert odd == []
    assert len(lines) == len(cases)
