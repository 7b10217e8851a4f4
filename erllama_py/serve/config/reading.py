"""The text of a configuration file as tables: found, bounded, decoded, parsed. All that goes wrong is a `ConfigError`.

It reads a file, so it blocks: from a coroutine, call it in a worker thread.
"""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from erllama_py.serve.config.errors import ConfigError

# A file of a hundred models takes some 30 KB. What is larger is something else: a model, mostly.
MOST_BYTES = 1 << 20
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")  # how `tomllib` ends its messages


def read_tables(file: Path) -> dict[str, Any]:
    """The tables of the TOML file. Raises `ConfigError`."""
    return parse_tables(_read(file), str(file))


def parse_tables(data: bytes, file: str) -> dict[str, Any]:
    """The tables in the bytes of a file, which is named in errors. Raises `ConfigError`. Pure."""
    try:
        text = data.decode("utf-8-sig")  # editors of Windows write a mark at its beginning
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(file, f"line {line}", f"the file is not UTF-8: byte 0x{data[error.start]:02x}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _PLACE.search(str(error))
        place = f"line {found[1]}, column {found[2]}" if found and found[1] else "at its end"
        problem = _PLACE.sub("", str(error))
        raise ConfigError(file, place, f"no TOML: {problem[:1].lower()}{problem[1:]}") from None
    except RecursionError:
        raise ConfigError(file, "", "its tables are nested too deeply") from None
    except ValueError as error:  # dates that are none, numbers of too many digits
        raise ConfigError(file, "", f"no TOML: {error}") from None


def _read(file: Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ConfigError(str(file), "", f"it is {what}")
        if status.st_size > MOST_BYTES:
            problem = f"its {status.st_size:,} bytes are more than a configuration has, {MOST_BYTES:,}"
            raise ConfigError(str(file), "", problem)
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(str(file), "", f"it cannot be read: {problem}") from error
