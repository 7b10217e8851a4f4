"""The scripts for shells that cyclopts makes, so that files are completed, and so that zsh finds its own. Pure."""

from __future__ import annotations

import re

# An argument, or the value of an option, for which the script names nothing to complete it with.
_TEXT = r"(?:[^':\\]|\\.|'\\'')*"
_OPEN = re.compile(rf"^( +'(?:\d+|\*):{_TEXT}| +'\*--[^[]+\[.*\]:[\w-]+)(?=' \\$)", re.MULTILINE)
# zsh reads the file when it completes the command for the first time; others read it when they start, by `source`.
_CALLED = """
if [[ $funcstack[1] == _erllama ]]; then
  _erllama "$@"
else
  compdef _erllama erllama
fi
"""


def bash(script: str) -> str:
    """Where nothing else fits, bash completes files."""
    return script.replace("complete -F ", "complete -o default -F ")


def zsh(script: str) -> str:
    """The same; and the function is called as the file is that is to hold it, which zsh asks for."""
    named = script.replace("_cyclopts_erllama", "_erllama")
    return _OPEN.sub(r"\1:_files", named).rstrip("\n") + "\n" + _CALLED


def fish(script: str) -> str:
    """It completes files by itself."""
    return script


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
