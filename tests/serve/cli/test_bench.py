"""`erllama bench`: what is measured, how often, and against what."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from helpers.threaded_server import Canned, served_here, threaded
from helpers.tiny_gguf import tiny_gguf

from erllama_py.serve.cli import main
from erllama_py.serve.cli.bench_measures import Answer, Measured, lines, measure, rate, spread

Capture = pytest.CaptureFixture[str]


class Paced:
    """A target whose times are known: a token of a prompt takes 10 ms, one of a reply 100 ms, side by side."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[list[int]], int]] = []
        self._known: set[tuple[int, ...]] = set()
        self.renewed = 0

    async def tokens(self, count: int, chance: random.Random) -> list[int]:
        return [chance.randrange(1000) for _ in range(count)]

    async def ask(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        self.asked.append(([list(prompt) for prompt in prompts], tokens))
        new = [prompt for prompt in prompts if tuple(prompt) not in self._known]
        first = sum(len(prompt) for prompt in new) * 0.01 or 0.001
        self._known |= {tuple(prompt) for prompt in prompts}
        return [
            Answer(
                first=first, last=first + (tokens - 1) * 0.1, generated=tokens, prompt_tokens=len(prompt),
                reused=0 if prompt in new else len(prompt) - 1,
            )
            for prompt in prompts
        ]  # fmt: skip

    async def renew(self) -> str:
        self.renewed += 1
        return "the cache"

    def describe(self) -> dict[str, str]:
        return {"model": "paced"}


@pytest.mark.anyio
@pytest.mark.parametrize("sequences", [1, 3])
async def test_the_figures_are_those_of_what_was_asked(sequences: int) -> None:
    """Prompts and replies of all sequences together; one prompt alone is computed and then asked for again."""
    target = Paced()
    found = await measure(target, prompt=50, tokens=11, sequences=sequences, repeats=2, seed=1)
    assert found.prefill.median == pytest.approx(100)
    assert found.decode.median == pytest.approx(10 * sequences)
    assert found.compute_seconds.median == pytest.approx(0.5)
    assert found.again_seconds is not None
    assert found.again_seconds.median == pytest.approx(0.001)
    assert (found.again, found.again_reused, target.renewed) == ("the cache", 49, 1)
    assert len(found.prefill.values) == found.repeats == 2
    warm_up, *rest = target.asked
    assert (len(warm_up[0][0]), warm_up[1]) == (32, 8)
    prompts = {tuple(prompt) for asked, tokens in rest for prompt in asked}
    assert len(prompts) == 2 * (sequences if sequences == 1 else sequences + 1)


def test_a_rate_of_nothing_is_nothing() -> None:
    """Nothing is divided by 0."""
    assert (rate(5, 0.0), rate(0, 1.0), rate(-1, 1.0), rate(10, 2.0)) == (0.0, 0.0, 0.0, 5.0)
    one = spread([3.0, 1.0, 2.0])
    assert (one.median, one.least, one.most, one.values) == (2.0, 1.0, 3.0, (3.0, 1.0, 2.0))


def test_it_says_what_it_did() -> None:
    """The warm-up apart, with the spread of the repeats."""
    one = spread([1.0, 2.0, 4.0])
    found = Measured(
        what={"model": "m"}, prompt_tokens=512, reply_tokens=64, sequences=2, repeats=3, warm_up_seconds=0.5,
        prefill=one, decode=one, compute_seconds=one, again_seconds=spread([0.1]), again="the cache", again_reused=511,
    )  # fmt: skip
    text = "\n".join(lines(found))
    for part in (
        "3 repeats: prompts of 512 random tokens, replies of 64, 2 sequences side by side; a warm-up of 0.50 s is not",
        "prefill   2.0 tokens/s (1.0 to 4.0)",
        "again     0.100 s (0.100 to 0.100) to the first token, 511 of 512 tokens from the cache: 20.0 × faster",
    ):
        assert part in text


def test_what_is_too_short_to_be_saved_is_not_called_faster() -> None:
    """The difference is noise then."""
    one = spread([1.0])
    found = Measured(
        what={}, prompt_tokens=16, reply_tokens=4, sequences=1, repeats=1, warm_up_seconds=0.5,
        prefill=one, decode=one, compute_seconds=one, again_seconds=one, again="the cache", again_reused=0,
    )  # fmt: skip
    assert lines(found)[-1].endswith("0 of 16 tokens from the cache: so short a prompt is not saved")
    assert lines(found)[0].startswith("1 repeat: ")


@pytest.mark.slow
def test_a_file_is_measured_and_its_rows_are_read_again(tmp_path: Path, capsys: Capture) -> None:
    """What was computed in the first load is in the cache of the second."""
    path = str(tiny_gguf("dense", tmp_path))
    sizes = ["--prompt", "600", "--tokens", "4", "--repeat", "2", "--sequences", "2", "--threads", "1"]
    assert main(["bench", path, *sizes, "--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Measured)
    assert (found.prompt_tokens, found.reply_tokens, found.sequences, found.repeats) == (600, 4, 2, 2)
    assert min(found.prefill.least, found.decode.least, found.compute_seconds.least) > 0
    assert found.again == "the cache, after the model was loaded again"
    assert found.what["model"].startswith("llama")


@pytest.mark.slow
def test_a_model_of_a_server_is_measured_by_its_streams(tmp_path: Path, capsys: Capture) -> None:
    """The stub's; a model that is not there is an error of one line."""
    sizes = ["--prompt", "300", "--tokens", "4", "--repeat", "2", "--sequences", "2"]
    with served_here(tmp_path) as url:
        assert main(["bench", "tiny", "--server", url, *sizes, "--json"]) == 0
        found = msgspec.json.decode(capsys.readouterr().out, type=Measured)
        assert found.what["server"] == url
        assert found.again_reused >= 256
        assert found.decode.least > 0
        assert main(["bench", "tiny", "--server", url, *sizes]) == 0
        assert "tokens/s" in capsys.readouterr().out
        assert main(["bench", "other", "--server", url, *sizes]) == 1
        printed, complaints = capsys.readouterr()
        assert (printed, complaints.count("\n")) == ("", 1)
        assert "other" in complaints


def test_a_server_that_is_none_is_an_error(capsys: Capture) -> None:
    """And nothing is measured."""
    with threaded(Canned(body={"tokens": "?"}), lifespan="off") as url:
        assert main(["bench", "tiny", "--server", url]) == 1
    assert "no server of erllama" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--prompt=0", "--tokens=1", "--sequences=0", "--repeat=0", "--threads=0"])
def test_sizes_are_bounded(wrong: str, tmp_path: Path, capsys: Capture) -> None:
    """A rate takes two tokens."""
    assert main(["bench", str(tiny_gguf("dense", tmp_path)), wrong]) == 2
    assert wrong.split("=")[0] in capsys.readouterr().err
