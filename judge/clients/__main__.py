"""Runs the snippets and prints a table: `python -m judge.clients MODEL.gguf [--python PATH] [CLIENT …]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from judge.clients.environments import python_of
from judge.clients.server import serving
from judge.clients.snippets import Snippet, localized, snippets_of

PAGES = Path(__file__).parents[2] / "docs" / "guides"
WRITTEN = "http://127.0.0.1:8080"  # the address on the pages
MOST_SECONDS = 600
ROW = "{:<20} {:<32} {:>7} {}"


def snippets() -> list[Snippet]:
    """Those of all pages."""
    return [one for page in sorted(PAGES.glob("*.md")) for one in snippets_of(page.read_text(encoding="utf-8"))]


def judge(snippet: Snippet, address: str, python: Path | None) -> bool:
    """Run one; whether it ended well."""
    interpreter = python or python_of(snippet.packages)
    began = time.monotonic()
    text = localized(snippet.text, {WRITTEN: address})
    done = subprocess.run([interpreter, "-c", text], capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    is_well = done.returncode == 0
    seconds = f"{time.monotonic() - began:.1f}"
    print(ROW.format(snippet.client, snippet.packages, seconds, "ok" if is_well else "FAILED"), flush=True)
    if not is_well:
        print(done.stderr[-4000:])
    return is_well


def main(arguments: list[str]) -> int:
    """The exit status: 0 where all snippets end well."""
    parser = argparse.ArgumentParser(prog="judge.clients", description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file of a model that was trained to call tools")
    parser.add_argument("clients", nargs="*", help="words of the headings of those that are judged; all by default")
    parser.add_argument("--python", type=Path, help="an interpreter that has the packages, in place of environments")
    given = parser.parse_intermixed_args(arguments)
    wanted = [
        one for one in snippets()
        if not given.clients or any(word.lower() in one.client.lower() for word in given.clients)
    ]  # fmt: skip
    print(ROW.format("client", "packages", "seconds", ""))
    with serving(given.model) as address:
        well = [judge(one, address, given.python) for one in wanted]
    print(f"\n{sum(well)} of {len(well)} snippets end well")
    return 0 if well and all(well) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
