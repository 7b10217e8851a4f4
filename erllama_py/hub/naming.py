"""What the names of files in a repository say: which are models, of what quantisation, in how many files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from erllama_py.options.hub_reference import is_file_in_repo

# Quantisations by llama.cpp's names, with what repositories put before (`UD-`) and behind them (`_L`, `_XL`).
_QUANT = re.compile(
    r"(?:^|(?<=[-._/ ]))"
    r"((?:UD-)?(?:I?Q\d+(?:_(?:K|[0-9]|NL|XXS|XS|XL|S|M|L))*|TQ\d_\d|BF16|FP?16|FP?32|(?:MX|NV)FP4(?:_MOE)?))"
    r"(?=$|[-._/ ])",
    re.IGNORECASE,
)
_PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)
# Files in GGUF that are no language models: projectors of images, and the statistics that quantisers use.
_OTHER = re.compile(r"(?:^|[-._/])(?:mmproj|imatrix)(?:$|[-._])", re.IGNORECASE)


class RepoFile(msgspec.Struct, frozen=True):
    """One file of a repository."""

    path: str
    size: int = 0
    digest: str = ""
    """What names it in the cache: its SHA-256, or the SHA-1 that git has of it, in hex."""


class HubModel(msgspec.Struct, frozen=True):
    """One model of a repository: one file, or several in order."""

    files: tuple[RepoFile, ...]
    missing: int = 0
    """How many of its files are not there."""

    @property
    def quant(self) -> str | None:
        """Its quantisation, as its name has it, in capitals."""
        return quant_of(self.files[0].path)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


def quant_of(path: str) -> str | None:
    """The quantisation that the name of a file says, or else that of its folder; in capitals, `F16` for `fp16`."""
    folder, _, name = path.rpartition("/")
    part = _PART.fullmatch(name)
    stem = part["name"] if part else name[: -len(".gguf")]
    for text in (stem, folder):
        if found := _QUANT.findall(text):
            return same_quant(found[-1])
    return None


def same_quant(quant: str) -> str:
    """A quantisation as it is compared."""
    return re.sub(r"^FP(?=16|32)", "F", quant.upper())


def is_model(path: str) -> bool:
    """Whether a file of a repository is a model, by its path."""
    return is_file_in_repo(path) and not _OTHER.search(path.rpartition("/")[2])


def models_of(files: Iterable[RepoFile]) -> list[HubModel]:
    """The models that files are, in the order of their paths; those in several files as one."""
    models: dict[tuple[str, int], dict[int, RepoFile]] = {}
    for file in sorted(files, key=lambda one: one.path):
        if is_model(file.path):
            part = _PART.fullmatch(file.path)
            key, number = ((part["name"], int(part["count"])), int(part["number"])) if part else ((file.path, 1), 1)
            models.setdefault(key, {})[number] = file
    return [
        HubModel(tuple(parts[number] for number in sorted(parts)), missing=_missing(parts, count))
        for (_, count), parts in models.items()
    ]


def _missing(parts: dict[int, RepoFile], count: int) -> int:
    """How many of the files 1 to `count` are not among these. A name may say any count."""
    return count - sum(1 <= number <= count for number in parts)
