"""Live requests beside a batch: what of the model's work its lines take from them, and that they go on all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from helpers.batches import CHAT, begin, jsonl, line, serving
from helpers.batches import until as over
from helpers.runtime import GatedBackend, until

from erllama_py.engine.backend import DecodeStatus, Slice
from erllama_py.engine.tick_plan import OTHERS
from erllama_py.options.model import ModelConfig
from erllama_py.options.request import BACKGROUND
from erllama_py.serve.batches import asking

pytestmark = pytest.mark.anyio
TOKENS = 100
WIDTH = 8
LINES = [line(number, max_tokens=2000, ignore_eos=True) for number in range(WIDTH)]


class Decodes:
    """What a stub was asked to decode while its gate was open. It is shut by the first decode of so many `lines` that
    have all read their prompts."""

    def __init__(self, lines: int) -> None:
        self.gate, self.decoded = threading.Event(), list[list[Slice]]()
        self._lines: int | None = lines

    def make(self, model_id: str, config: ModelConfig) -> Noting:
        return Noting(model_id, config, self)

    def note(self, slices: Sequence[Slice]) -> None:
        """On the thread of the engine."""
        self.decoded.append(list(slices))
        if self._lines is not None and [len(one.tokens) for one in slices] == [1] * self._lines:
            self._lines = None
            self.gate.clear()

    def of_live(self, tokens: int) -> tuple[int, int]:
        """What was decoded for a live request with so many tokens to its reply, and for others meanwhile."""
        decoded = self.decoded
        first, seq_id = next((at, one.seq_id) for at, some in enumerate(decoded) for one in some if _is_live(one))
        mine = [at for at, some in enumerate(decoded) if at >= first and any(one.seq_id == seq_id for one in some)]
        during = [one for some in decoded[first : mine[tokens - 1] + 1] for one in some]
        own = sum(len(one.tokens) for one in during if one.seq_id == seq_id)
        return own, sum(len(one.tokens) for one in during) - own


class Noting(GatedBackend):
    """See `Decodes`."""

    def __init__(self, model_id: str, config: ModelConfig, decodes: Decodes) -> None:
        super().__init__(model_id, config, decodes.gate)
        self._noted = decodes

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        status = super().decode(slices)
        if status is DecodeStatus.DONE:
            self._noted.note(slices)
        return status


def _is_live(one: Slice) -> bool:
    """By the first letter of its message, wherever its prompt is cut."""
    at = len(b"?user\n") - one.start
    return 0 <= at < len(one.tokens) and one.tokens[at] == ord("~")


async def _beside(sequences: int) -> tuple[int, int]:
    """What is decoded for a live request that comes while lines are at work, and for others meanwhile."""
    decodes, config = Decodes(min(WIDTH, sequences)), {"context_opts": {"n_ctx": 20_000, "n_seq_max": sequences}}
    async with serving(config, make=decodes.make) as at:
        batch = await begin(at.client, jsonl(LINES))
        await until(lambda: at.model.queue_depth == WIDTH)
        decodes.gate.set()
        await until(lambda: not decodes.gate.is_set())
        live = line(0, text="~", max_tokens=TOKENS, ignore_eos=True)["body"]
        asking = asyncio.create_task(at.client.post(CHAT, json=live))
        await until(lambda: at.model.queue_depth == WIDTH + 1)
        decodes.gate.set()
        assert (await asking).status_code == 200
        await at.client.post(f"/v1/batches/{batch['id']}/cancel")
        await over(at.client, batch)
        return decodes.of_live(TOKENS)


async def test_a_live_reply_takes_an_eighth_longer_at_most() -> None:
    """The lines go on all the same."""
    own, others = await _beside(2 * WIDTH)
    assert own > TOKENS
    assert own / OTHERS / 2 <= others <= own / OTHERS + WIDTH


@pytest.mark.parametrize("sequences", [WIDTH, 1])
async def test_a_line_is_parked_for_a_live_request_that_finds_no_sequence(sequences: int) -> None:
    """What goes on beside it has an eighth of its tokens then, too."""
    own, others = await _beside(sequences)
    assert own > TOKENS
    assert others <= own / OTHERS + WIDTH


async def test_lines_of_the_same_priority_would_take_most_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rule above is for."""
    monkeypatch.setattr(asking, "BACKGROUND", 0)
    own, others = await _beside(2 * WIDTH)
    assert others > 5 * own


def test_the_priority_of_lines_is_that_of_the_background() -> None:
    """The number is written twice: what serves sees the public names alone."""
    assert asking.BACKGROUND == BACKGROUND
