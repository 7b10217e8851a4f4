"""A batch's input checked line by line, and the index that is made of it: where each line lies.

The index is there as a whole or not at all; its last line is a checksum of the others. With it a batch is taken up
again without reading its input, and knows the `custom_id` of each line even where that is gone.
"""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path

import msgspec

from erllama_py.serve.batches.disk import Disk, Growing, replaced
from erllama_py.serve.batches.lines import LineProblem, Place, Scan

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Place).decode_lines
SEAL = b"%08x\n"
MISSING = LineProblem("input_file_not_found", "the input file is not there any more")


async def check(disk: Disk, path: Path, index: Path, scan: Scan, stopping: asyncio.Event) -> bool:
    """Feed the file to `scan`, and write the index where nothing is wrong; False where it was stopped before its end.

    Raises `OSError` where the index cannot be written.
    """
    part = index.with_name(index.name + ".part")
    growing, checksum = await Growing.open(disk, part, 0), 0
    try:
        try:
            async for piece in disk.pieces(path):
                if stopping.is_set() or scan.given_up:
                    break
                if places := await disk.do(_fed, scan, piece):
                    await growing.append(places)
                    checksum = zlib.crc32(places, checksum)
        except FileNotFoundError:
            scan.problems.append(MISSING)
        if stopping.is_set():
            return False
        last = _lines(scan.end())
        await growing.append(last + SEAL % zlib.crc32(last, checksum))
        await growing.sync()
    finally:
        await growing.close()
    await disk.do(part.unlink if scan.problems else replaced, *(() if scan.problems else (part, index)))
    return True


async def places(disk: Disk, index: Path) -> list[Place] | None:
    """The lines of an index; None where there is none that is whole and as it was written."""
    found, rest, checksum = list[Place](), b"", 0
    try:
        async for piece in disk.pieces(index):
            rest += piece
            end = rest.rfind(b"\n", 0, -len(SEAL % 0)) + 1  # of the last line that cannot be the seal
            found += await disk.do(_decode, rest[:end])
            checksum, rest = zlib.crc32(rest[:end], checksum), rest[end:]
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if rest == SEAL % checksum else None


def _fed(scan: Scan, piece: bytes) -> bytes:
    return _lines(scan.feed(piece))


def _lines(found: list[Place]) -> bytes:
    return b"".join(_encode(place) + b"\n" for place in found)
