"""How a child ended, from its code, its words, and what libraries wrote in it. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama_py.engine.children.codes import FAILED

How = Literal["ended", "crashed", "failed", "out of time", "unwanted"]


class Ended(msgspec.Struct, frozen=True):
    """How a child ended.

    `"ended"`: by its own word, with `code`. `"crashed"`: by `signal`, or without a word. `"failed"`: in Python,
    before its task was done. `"out of time"` and `"unwanted"`: it was killed.
    """

    how: How
    code: int | None
    signal: str | None  # "SIGABRT"
    stages: tuple[str, ...]  # what it said it was about to do
    written: str  # the end of what libraries wrote
    seconds: float
    info: str = ""  # the last of what it told as "info …"
    most_bytes: int | None = None  # of memory, where its process has a limit that is not for this task alone
    no_memory: bool = False  # whether that is known to have ended it

    @property
    def last_words(self) -> str:
        """See `last_words`."""
        return last_words(self.written)


def ended_of(
    how: How | None, code: int | None, words: bytes, written: bytes, seconds: float, signal: str | None = None
) -> Ended:
    """The end of a child that has said `words`; `how` where it is known, as of one that was killed. Pure."""
    said = words.decode(errors="replace").split("\n")[:-1]
    stages = tuple(word.removeprefix("stage ") for word in said if word.startswith("stage "))
    infos = [word.removeprefix("info ") for word in said if word.startswith("info ")]
    if how is None:
        how, code = how_ended(code, said)
    text = written.decode(errors="replace")
    return Ended(how, code, signal, stages, text, seconds, infos[-1] if infos else "")


def how_ended(code: int | None, said: list[str]) -> tuple[How, int | None]:
    """What a return code and the words of a child come to, and the code that counts. Pure.

    Where the application ignores SIGCHLD, or waits for all children, codes are lost and 0 is seen: then words count.
    """
    by_word = next((int(word.removeprefix("done ")) for word in said if word.startswith("done ")), None)
    if by_word is not None and code in (0, by_word):
        return ("failed" if by_word == FAILED else "ended"), by_word
    return ("crashed" if code is None or code <= 0 else "failed"), code


def last_words(written: str) -> str:
    """Why a library ended the process, from what it wrote; empty where it wrote nothing of it. Pure."""
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    for number, line in reversed(list(enumerate(lines))):
        if line.startswith("what():"):  # of the C++ runtime; the line before has the class
            return " ".join(lines[max(0, number - 1) : number + 1])
        if "GGML_ASSERT" in line or "ggml_abort" in line or "terminate called" in line:
            return _without_folder(line)
    return _without_folder(lines[-1]) if lines else ""


def _without_folder(line: str) -> str:
    """A line that begins with the path of a source file on the machine that built the library, by its name alone."""
    place, colon, rest = line.partition(": ")
    return f"{place.rpartition('/')[2]}{colon}{rest}" if place.startswith("/") else line
