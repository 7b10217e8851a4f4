"""Names of models on the Hugging Face hub, as `model_path` takes them: `hf:owner/repo:Q4_K_M`. Pure."""

from __future__ import annotations

import re
from typing import Self

import msgspec

from erllama_py.errors import InvalidOption
from erllama_py.options.check import PathText, absolute_path

PREFIX = "hf:"
FORMS = "hf:owner/repo, hf:owner/repo:Q4_K_M, hf:owner/repo/file.gguf, each with @revision behind the repository"
LONGEST = 1024  # characters: the hub's names and paths are far shorter

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_QUANT = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
# Of git: no control characters, blanks, or signs that mean something in a revision.
_REVISION = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]{1,255}")
_OF_SPECIAL = re.compile(r"(refs/(?:pr|convert)/[^/]+)/(.+)")
_GGUF_IN_NAME = re.compile(r"[-_.]gguf$", re.IGNORECASE)


class HubReference(msgspec.Struct, frozen=True):
    """A model on the Hugging Face hub. `str` gives the form that `model_path` takes."""

    repo: str
    """The repository, `"owner/name"`."""
    quant: str | None = None
    """The quantisation that is asked for; `None` where a file is, or where a usual one will do."""
    file: str | None = None
    """The path of a GGUF file in the repository; of a model in several files, any of them."""
    revision: str | None = None
    """A branch, a tag or a commit; `None`: the main branch."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference that a text such as `"hf:owner/repo:Q4_K_M"` is. Raises `InvalidOption`."""
        if not is_hub_reference(text):
            raise _wrong(text, "it does not begin with hf:")
        if len(text) > LONGEST:
            raise _wrong(text, "it is too long")
        owner, _, rest = text[len(PREFIX) :].partition("/")
        name, sign, rest = _cut(rest)
        repo = f"{owner}/{name}"
        if not _is_name(owner) or not _is_name(name):
            raise _wrong(text, f"{repo!r} is no repository")
        revision = None
        if sign == "@":
            revision, sign, rest = _of_revision(rest)
            _check_revision(text, revision)
        if sign == ":":
            if not _QUANT.fullmatch(rest):
                raise _wrong(text, f"{rest!r} is no quantisation")
            return cls(repo, quant=rest, revision=revision)
        if sign == "/":
            if not is_file_in_repo(rest):
                raise _wrong(text, f"{rest!r} is no GGUF file of a repository")
            return cls(repo, file=rest, revision=revision)
        return cls(repo, revision=revision)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        what = f":{self.quant}" if self.quant else f"/{self.file}" if self.file else ""
        return f"{PREFIX}{self.repo}{revision}{what}"

    @property
    def name(self) -> str:
        """What a model is called by its reference: as its file mostly is, without `.gguf`."""
        if self.file is not None:
            return self.file.rpartition("/")[2][: -len(".gguf")]
        name = _GGUF_IN_NAME.sub("", self.repo.partition("/")[2])
        return f"{name}-{self.quant}" if self.quant else name


def is_hub_reference(path: object) -> bool:
    """Whether a `model_path` names a model on the hub. A local file of such a name is `./hf:…`."""
    return isinstance(path, str) and path[: len(PREFIX)].lower() == PREFIX


def settled_path(path: PathText) -> str:
    """What `model_path` comes to: the absolute path of a file, or a model of the hub. Raises `InvalidOption`."""
    return str(HubReference.parse(str(path))) if is_hub_reference(path) else absolute_path("model_path", path)


def is_file_in_repo(path: str) -> bool:
    """Whether this can be the path of a GGUF file below a folder, and leads nowhere else."""
    parts = path.split("/")
    outside = any(part in ("", ".", "..") for part in parts)
    return path.lower().endswith(".gguf") and path.isprintable() and "\\" not in path and not outside


def _is_name(name: str) -> bool:
    """As the hub has it: `--` would be taken for a slash in its cache."""
    return _NAME.fullmatch(name) is not None and "--" not in name and ".." not in name


def _cut(text: str) -> tuple[str, str, str]:
    """What stands before the first `@`, `:` or `/`, the sign, and the rest."""
    found = re.search(r"[@:/]", text)
    return (text, "", "") if found is None else (text[: found.start()], found[0], text[found.end() :])


def _of_revision(text: str) -> tuple[str, str, str]:
    """The revision, and the sign and the text after it. A branch may have a slash in its name, a revision has no colon;
    before a file it is one part, but for the hub's own `refs/pr/1`."""
    revision, colon, quant = text.rpartition(":")
    if colon and not text.lower().endswith(".gguf"):
        return revision, ":", quant
    if not text.lower().endswith(".gguf") or "/" not in text:
        return text, "", ""
    if special := _OF_SPECIAL.fullmatch(text):
        return special[1], "/", special[2]
    revision, _, file = text.partition("/")
    return revision, "/", file


def _check_revision(text: str, revision: str) -> None:
    parts = revision.split("/")
    if not _REVISION.fullmatch(revision) or ".." in revision or any(part in ("", ".") for part in parts):
        raise _wrong(text, f"{revision!r} is no revision")


def _wrong(text: object, problem: str) -> InvalidOption:
    shown = repr(text) if len(repr(text)) <= 200 else f"{repr(text)[:200]}…"
    return InvalidOption("model_path", f"{shown} names no model of the hub: {problem}; the forms are {FORMS}")
