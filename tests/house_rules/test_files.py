"""Rules about files: each opens with its job, none is too long or large, none says what must not be said."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
from helpers.project import TOP, label, sources, syntax

MAX_LINES = 400
MAX_BYTES = 300_000

# Spelled in pieces, so that this file does not break its own rule.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~}/])/(?:" + "|".join(("home/", "root/", "work/", "Users/")) + ")",
    "the host of a package index": "|".join((r"py" r"pi\.org", r"python" r"hosted", r"regis" r"try\.npm")),
    "an open end": r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b",
}


def texts() -> list[str]:
    """Every text file that is in the project, or could be: what git tracks or does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=TOP, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [name for name in listed.stdout.splitlines() if (TOP / name).is_file()]


def test_every_file_opens_with_a_docstring() -> None:
    """The reader knows from the first line whether this is the right place."""
    missing = [label(path) for path in sources() if not ast.get_docstring(syntax(path))]
    assert missing == []


def test_no_file_is_too_long() -> None:
    """A file above the limit has a second one in it."""
    lengths = {label(path): len(path.read_text().splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_file_is_large() -> None:
    """What is, was downloaded or built, and stays in the history for ever."""
    sizes = {name: (TOP / name).stat().st_size for name in texts()}
    assert {name: size for name, size in sizes.items() if size > MAX_BYTES or name.endswith(".whl")} == {}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_forbidden_is_in_the_tree(what: str) -> None:
    """Paths of a machine, hosts of an index and open ends have no place in any file."""
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for name in texts():
        try:
            lines = (TOP / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # an image
        found += [f"{name}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


def test_silenced_checks_say_why() -> None:
    """A `noqa` or `type: ignore` names its rule and has its reason on the same line, after another `#`."""
    mark = re.compile(r"#\s*(?:no" r"qa|type:\s*ign" r"ore)(?P<rest>.*)")
    bare = []
    for path in sources():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = mark.search(line)
            if match and not re.match(r"[:\[].*\S\s+#\s*\S", match["rest"]):
                bare.append(f"{label(path)}:{number}")
    assert bare == []
