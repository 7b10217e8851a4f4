"""Models that do not fit together, in the same budget of memory."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from helpers.demand import Demanded, Hands, config, demanded, stub
from helpers.runtime import until

from erllama_py.serve.demand import Keeper
from erllama_py.serve.demand.plan import HOLD_TURNS, TURN_SECONDS

pytestmark = pytest.mark.anyio
# Room for all its chats, and a speed at which it is worth it to read rows: of a model that takes no time none is.
WIDE: dict[str, Any] = {"context_opts": {"n_ctx": 16_384, "n_seq_max": 4}, "stub": {"seconds_per_token": 0.0005}}
POLICY = {"min_tokens": 16, "cold_min_tokens": 16, "boundary_align_tokens": 16}


class Chat:
    """One conversation with a model, and what its turns computed a second time."""

    def __init__(self, model: str, number: int) -> None:
        self.model, self.twice = model, 0
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": f"chat {number} of {model} " * 4}]
        self._whole = 0

    async def turn(self, at: Demanded, text: str) -> None:
        """A question and its answer, which is not refused."""
        self._messages.append({"role": "user", "content": text})
        ask = {"model": self.model, "messages": self._messages, "max_tokens": 6, "temperature": 0}
        answer = await at.client.post("/v1/chat/completions", json=ask)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        self._messages.append({"role": "assistant", "content": told["choices"][0]["message"]["content"]})
        usage = told["usage"]
        computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        if self._whole:  # the last token of a reply is sampled and not computed: that is left for the next turn
            self.twice += max(0, computed - (usage["prompt_tokens"] - self._whole) - 1)
        self._whole = usage["prompt_tokens"] + usage["completion_tokens"]
        # What is still being saved is computed again, where other chats have taken its sequence meanwhile.
        await at.app.service.runtime.cache.flush()


@pytest.mark.slow
async def test_200_requests_for_two_models_of_which_one_fits() -> None:
    """None fails, the swaps are fewer than the requests, and what comes back computes nothing a second time."""
    draw = random.Random(17)
    models = [stub(name, cache_salt=name, policy=POLICY, **WIDE) for name in ("a", "b")]
    chats = [Chat(model, number) for model in ("a", "b") for number in range(16)]
    async with demanded(config(*models)) as at:

        async def client(number: int) -> int:
            mine = chats[number::4]  # four of each model
            for turn in range(50):
                await draw.choice(mine).turn(at, f"and {turn}?")
            return 50

        done = await asyncio.gather(*map(client, range(4)))
        states = at.app.service.states()
    swaps = sum(model.unloads.get("memory", 0) for model in states.models)
    assert sum(done) == 200
    assert 0 < swaps < 200
    assert sum(model.loads for model in states.models) == swaps + 1
    assert sum(chat.twice for chat in chats) == 0
    assert all(model.failed_loads == 0 for model in states.models)


async def test_a_model_that_is_in_use_stays() -> None:
    """A request for the other one waits, no longer than the server says; then it may come back."""
    async with demanded(config(stub("a"), stub("b"))) as at:
        keeper = at.app.service.served
        assert isinstance(keeper, Keeper)
        lease = await keeper.lease("a")
        enough, keeper.wait_seconds = keeper.wait_seconds, 0.01
        refused = await at.chat("b")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_loading")
        assert refused.headers["retry-after"]
        assert (at.state("a").open, at.state("b").waiting) == (1, 0)
        keeper.wait_seconds = enough
        lease.release()
        assert (await at.chat("b")).status_code == 200
        assert (at.state("a").state, at.state("b").state) == ("unloaded", "loaded")


async def test_a_stream_that_does_not_end_closes_its_model_for_no_more_than_a_while() -> None:
    """A request for the other model waits for it; others go on using it, and wait for a hold at most."""
    clock = Hands()
    async with demanded(config(stub("a"), stub("b")), clock=clock) as at:
        endless = await at.app.service.served.lease("a")
        other = asyncio.create_task(at.chat("b"))
        await until(lambda: at.state("b").waiting == 1)
        clock.advance(TURN_SECONDS)
        waiting = asyncio.create_task(at.chat("a"))
        await until(lambda: at.state("a").waiting == 1)
        clock.advance(TURN_SECONDS * HOLD_TURNS)
        assert (await waiting).status_code == 200
        assert (await at.chat("a")).status_code == 200
        assert at.state("b").waiting == 1
        endless.release()
        assert (await other).status_code == 200
        assert at.state("a").unloads == {"memory": 1}


async def test_a_pinned_model_stays() -> None:
    """What does not fit beside it is refused at once, and the start says so before that."""
    models = [stub("a", pinned=True), stub("b")]
    async with demanded(config(*models)) as at:
        assert (await at.chat("a")).status_code == 200
        refused = await at.chat("b")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_does_not_fit")
        assert at.state("a").state == "loaded"


async def test_what_nobody_has_goes_and_no_more_than_needed() -> None:
    """The one that was unused longest; not the small one that would not make enough room."""
    async with demanded(config(stub("a", 40), stub("b", 40), stub("c", 10), stub("d", 45), room=100)) as at:
        for name in ("a", "b", "c", "a", "d"):
            assert (await at.chat(name)).status_code == 200
        assert [one.state for one in at.app.service.states().models] == ["loaded", "unloaded", "loaded", "loaded"]
        assert at.app.service.states().used_bytes == 95 << 20
