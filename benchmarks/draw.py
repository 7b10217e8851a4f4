"""What a draw costs: our sampler over rows of logits, against llama.cpp's chain over all candidates. No model, no GPU.

Under a structure the mask of each place is filled and applied too, and the token accepted: of lower-case words, between
which most of the vocabulary is allowed, and greedy.

The rows look like those of language models: most tokens far below the best, few near it; and, for comparison, flat.
Every draw is from a row that 31 others were looked at after, as the rows of 32 streams are, so that none is in the
CPU's innermost cache. Times are medians; both sides in one run, in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from report import publish, table

from erllama_py.chat.structure import structure_text
from erllama_py.engine.banned import Banned
from erllama_py.engine.guidance import Words
from erllama_py.engine.llama.candidates import Candidates
from erllama_py.engine.llama.chain import make_chain
from erllama_py.engine.llama.dry import DrySamplers
from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.rows import Rows
from erllama_py.engine.llama.sampler import LlamaSampler
from erllama_py.engine.llama.steps import Making
from erllama_py.engine.structure import Matcher, Tokenizer, compile
from erllama_py.options.sampling import Sampling

SIZES = (49_152, 128_256, 262_144)
STREAMS = (1, 8, 32)
ROWS = 32
SECONDS = 0.25  # of each measurement
HISTORY = [token % 911 for token in range(0, 6400, 100)]  # 64 tokens, what the penalties look back on

GREEDY, DEFAULT = Sampling(temperature=0.0), Sampling(seed=1)
PENALTIES = Sampling(seed=1, repetition_penalty=1.1, frequency_penalty=0.1)
ONLY_TOP_P = Sampling(seed=1, top_k=0, min_p=0.0)
ONLY_MIN_P = Sampling(seed=1, top_k=0, top_p=1.0)


class Decoded:
    """In place of a context: the rows that its last decode would have left."""

    def __init__(self, logits: Any) -> None:
        self._logits = logits
        self._last = Rows(np, logits)

    def again(self) -> None:
        """Another decode: nothing is known of the rows."""
        self._last = Rows(np, self._logits)

    def rows(self, index: int, n_vocab: int) -> tuple[Rows, range]:
        """See `Context.rows`."""
        return self._last, range(index, index + 1)


def peaked(random: Any, n_vocab: int) -> Any:
    """Rows of a language model's shape: most tokens out of the question, and a slope down from the best."""
    rows = random.normal(0.0, 2.0, (ROWS, n_vocab))
    for row in rows:
        row[random.integers(0, n_vocab, 2000)] += random.exponential(2.5, 2000)
        row[random.integers(0, n_vocab, 10)] += 12.0
    return rows.astype("f4")


def flat(random: Any, n_vocab: int) -> Any:
    """Rows in which nothing stands out."""
    return random.normal(0.0, 1.0, (ROWS, n_vocab)).astype("f4")


def words(random: Any, n_vocab: int) -> list[bytes]:
    """A vocabulary: all bytes, then words and parts of words of small letters, two in three with a space before it."""
    letters, lengths = random.integers(97, 123, (n_vocab, 7)).astype("u1"), random.integers(1, 7, n_vocab)
    made = [bytes(row[:length]) for row, length in zip(letters, lengths, strict=True)]
    spaced = [b" " + word if number % 3 else word for number, word in enumerate(made)]
    return [bytes([byte]) for byte in range(256)] + spaced[257:] + [b""]


class Bench:
    """One vocabulary, with rows of one shape."""

    def __init__(self, n_vocab: int, shape: Callable[[Any, int], Any]) -> None:
        self._logits = shape(np.random.default_rng(0), n_vocab)
        self._making = Making(library(), n_vocab, 4096, DrySamplers(library(), None, tuple))
        self._decoded = Decoded(self._logits)
        self._candidates = Candidates(library(), n_vocab)
        self._words = Words(words(np.random.default_rng(1), n_vocab), [n_vocab - 1], list)

    def structured(self, streams: int) -> float:
        """`ours`, greedy under a structure."""
        tokenizer = Tokenizer(lambda: self._words, nullcontext)
        text = structure_text(regex="[a-z ]*")
        assert text is not None
        return self.ours(GREEDY, streams, matcher=lambda: compile(text, tokenizer))

    def ours(
        self, sampling: Sampling, streams: int, likeliest: int = 0, matcher: Callable[[], Matcher | None] = lambda: None
    ) -> float:
        """Microseconds a draw, of `streams` samplers one after the other after each decode."""
        context: Any = self._decoded
        nothing = Banned(frozenset(), frozenset(), 0)
        samplers = [
            LlamaSampler(
                self._making, context, self._candidates, sampling, HISTORY, nothing, matcher(), lambda one: None
            )
            for _ in range(streams)
        ]

        def tick(begin: int) -> None:
            self._decoded.again()
            for number, sampler in enumerate(samplers, begin):
                sampler.sample(number % ROWS)
                if likeliest:
                    sampler.likeliest(likeliest)

        found = _median(tick, streams)
        for sampler in samplers:
            sampler.close()
        return found

    def all_candidates(self, sampling: Sampling) -> float:
        """Microseconds a draw of llama.cpp's chain from a list of all tokens."""
        lib, chain = library(), make_chain(self._making, sampling, HISTORY)

        def draw(row: int) -> None:
            self._candidates.fill(self._logits[row % ROWS])
            lib.quick.sampler_apply(chain, self._candidates.array)
            lib.quick.sampler_accept(chain, self._candidates.selected())

        found = _median(draw, 1)
        lib.c.llama_sampler_free(chain)
        return found


def _median(tick: Callable[[int], None], streams: int) -> float:
    seconds: list[float] = []
    row, ends = 0, time.perf_counter() + SECONDS
    while len(seconds) < 5 or time.perf_counter() < ends:
        began = time.perf_counter()
        tick(row)
        seconds.append((time.perf_counter() - began) / streams)
        row += streams
    return 1e6 * statistics.median(seconds)


def main() -> None:
    """Measure, and publish the tables."""
    head = [
        "µs a draw",
        "streams",
        "greedy",
        "default chain",
        "penalties",
        "5 logprobs",
        "greedy, structure",
        "`min_p` alone",
        "`top_p` alone",
    ]
    lines: list[list[str]] = []
    for n_vocab in SIZES:
        bench = Bench(n_vocab, peaked)
        for streams in STREAMS:
            found = [bench.ours(sampling, streams) for sampling in (GREEDY, DEFAULT, PENALTIES)]
            found += [bench.ours(DEFAULT, streams, likeliest=5), bench.structured(streams)]
            found += [bench.ours(sampling, streams) for sampling in (ONLY_MIN_P, ONLY_TOP_P)]
            lines.append([f"{n_vocab:,} tokens", str(streams), *(f"{value:.0f}" for value in found)])
        every = [f"{bench.all_candidates(one):.0f}" for one in (GREEDY, DEFAULT, PENALTIES, ONLY_MIN_P, ONLY_TOP_P)]
        lines.append([f"{n_vocab:,}, all candidates", "1", *every[:3], "", "", *every[3:]])
    bench = Bench(SIZES[1], flat)
    found = [bench.ours(one, 32) for one in (GREEDY, DEFAULT, PENALTIES)]
    found += [bench.ours(DEFAULT, 32, likeliest=5), bench.structured(32)]
    found += [bench.ours(ONLY_MIN_P, 32), bench.ours(ONLY_TOP_P, 32)]
    lines.append([f"{SIZES[1]:,}, flat rows", "32", *(f"{value:.0f}" for value in found)])
    publish("draw", table(head, lines))


if __name__ == "__main__":
    main()
