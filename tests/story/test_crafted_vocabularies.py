"""Vocabularies that would end the process, loop for ever, or fill the memory are refused: a child finds out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.both_backends import SIZES
from helpers.crafted_vocabularies import ARRAY, CRAFTED, KNOWN, MAP, MODEL, T5, one_step
from helpers.spoilt_gguf import TEXT, Spoilt, spoilt_gguf
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.engine.llama import probe
from erllama_py.engine.llama.probe_words import Bounds

pytestmark = pytest.mark.anyio

SMALL = Bounds(text_seconds=0.3, memory=512 << 20)


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children are given little time and memory; nothing has passed in this process."""
    monkeypatch.setattr(probe, "BOUNDS", SMALL)
    monkeypatch.setattr(probe, "_passed", set())


async def tokens(home: Path, path: Path, text: str, **config: Any) -> list[int]:
    fields: Any = {"model_path": path, "context_opts": SIZES, **config}
    async with erllama.Runtime(home=home) as runtime:
        model = await runtime.load_model("m", fields)
        return await model.tokenize(text, add_bos=False)


@pytest.mark.either_loop
@pytest.mark.parametrize(
    ("how", "tried"),
    [
        *(pytest.param(how, True, marks=pytest.mark.slow, id=f"{how}, tried") for how in CRAFTED),
        *(pytest.param(how, False, id=how) for how in KNOWN),
    ],
)
async def test_a_vocabulary_that_would_end_the_process_is_refused(tmp_path: Path, how: str, tried: bool) -> None:
    """With the reason in words, whether it was tried in a child or not; this process goes on."""
    path = spoilt_gguf(CRAFTED[how], tmp_path / "crafted.gguf")
    with pytest.raises(erllama.UnsupportedModel, match=CRAFTED[how].said):
        await tokens(tmp_path / "home", path, "a", probe=tried)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("RWKV without a byte", r"more than 0\.3 s of CPU time.*for ever"),
        ("SentencePiece without a byte", "SIGABRT.*while it tokenizes texts.*out_of_range"),
    ],
)
async def test_what_has_no_known_reason_is_found_by_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    """By the CPU time that they took, or by what ended the process."""
    monkeypatch.setattr("erllama_py.engine.llama.first_look.find_load_fault", lambda *args: None)
    path = spoilt_gguf(CRAFTED[how], tmp_path / "crafted.gguf")
    with pytest.raises(erllama.UnsupportedModel, match=said):
        await tokens(tmp_path / "home", path, "a")


@pytest.mark.slow
async def test_memory_is_bounded_also_where_llama_cpp_refuses_in_order(tmp_path: Path) -> None:
    """Here it would get all there is; nothing is remembered of it."""
    path = spoilt_gguf(CRAFTED["a token too long to be written"], tmp_path / "crafted.gguf")
    for _ in range(2):
        with pytest.raises(erllama.UnsupportedModel, match=r"0\.5 GiB.*reads the file.*probe=False"):
            await tokens(tmp_path / "home", path, "a")


async def test_a_text_that_a_vocabulary_has_no_token_for_is_refused(tmp_path: Path) -> None:
    """Where it names a token that does not exist; others are read."""
    path, home = spoilt_gguf(CRAFTED["RWKV without an unknown token"], tmp_path / "crafted.gguf"), tmp_path / "home"
    assert await tokens(home, path, "xyz", probe=False)
    with pytest.raises(erllama.InvalidText, match="no token for"):
        await tokens(home, path, "xyzq", probe=False)


@pytest.mark.slow
async def test_sound_tables_of_characters_are_used(tmp_path: Path) -> None:
    """One that turns `a` into `b`, up to its last byte."""
    table = Spoilt("", values={**T5, MAP: (one_step(ord("a"), b"b\0"), ARRAY)})
    path = spoilt_gguf(table, tmp_path / "sound.gguf")
    assert await tokens(tmp_path / "home", path, "a") == await tokens(tmp_path / "home", path, "b")


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
async def test_rwkv_needs_no_byte_that_begins_no_token(tmp_path: Path, whole: bool) -> None:
    """With all bytes it loads; a token named twice by escapes is no other matter."""
    how = Spoilt("", values={MODEL: ("rwkv", TEXT)}, tokens=lambda found: all_bytes(len(found), whole))
    path = spoilt_gguf(how, tmp_path / "sound.gguf")
    assert len(await tokens(tmp_path / "home", path, "qx é")) == 5


def all_bytes(count: int, whole: bool) -> list[str]:
    named = [f"\\x{byte:02x}" if whole or not 0x61 <= byte <= 0x7A else chr(byte) for byte in range(256)]
    return [*named, *(f"<{number}>" for number in range(count - 256))]


@pytest.mark.slow
async def test_children_have_the_time_of_the_application_to_themselves(tmp_path: Path) -> None:
    """A timer and a mask of signals of the application's are not those of a child."""
    import signal

    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    try:
        path = spoilt_gguf(CRAFTED["RWKV without a byte"], tmp_path / "crafted.gguf")
        with pytest.raises(erllama.UnsupportedModel, match="for ever"):
            await tokens(tmp_path / "home", path, "a")
        assert await tokens(tmp_path / "home", tiny_gguf("dense", tmp_path), "a")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
        signal.signal(signal.SIGPROF, before)
