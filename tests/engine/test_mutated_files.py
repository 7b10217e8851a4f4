"""Files whose headers were mutated at random end no process but the child in which they are tried.

`ERLLAMA_MUTATED_FILES=1000` in the environment tries as many.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.project import TOP

COUNT = int(os.environ.get("ERLLAMA_MUTATED_FILES", "24"))


@pytest.mark.slow
def test_mutated_files_end_no_process(tmp_path: Path) -> None:
    """Each loads and answers, or is an error of the library's; the process that loads them goes on to the last."""
    environment = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP / 'tests'}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "helpers.mutated_gguf", "0", str(COUNT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.returncode, lines[-1:], done.stderr[-2000:])
    assert [line.split(" ")[0] for line in lines[:COUNT]] == [str(number) for number in range(COUNT)]
