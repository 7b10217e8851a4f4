"""Chats whose replies do not come back as they were generated: thinking stripped from the history, a reply edited or
left out. Every turn begins where it diverges from the one before, and one copy of what the last one holds is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.changed_replies import HOWS, Kept, Message, chatted, config, in_common, words
from helpers.stateless import ASKED, SAVING, SIX, TOOLS, next_messages, on_disk, question, thinker
from helpers.tiny_gguf import WINDOW, Kind

import erllama_py as erllama

pytestmark = pytest.mark.anyio

KINDS = get_args(Kind)
CARRYING: tuple[Kind, ...] = ("recurrent", "hybrid")  # each of their rows carries a whole state
STRIDE = 256  # tokens between two ends on the grid
TURN = 128  # tokens of one turn here, at most
CHANGED = [how for how in HOWS if how != "exact"]
# What opens a reply in these templates. A row of so few tokens is not always worth reading, and is one of its own only
# where memory cannot be cut back.
OPENING = 4


def one_copy(kept: Kept) -> float:
    """Tokens in rows, those left out that no later turn has, for each token that the last turn holds."""
    return (kept.stored - kept.thrown) / kept.held


def check_states(kept: Kept) -> None:
    """A state is kept for each stride and not for each turn; and at the end of the system prompt, before the last
    message, after it, where its reply begins and where it ends. Each token is in one row."""
    assert len(kept.rows) <= 5 + kept.held // STRIDE
    assert kept.stored == kept.held


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["edited", "dropped"])
async def test_a_turn_begins_where_it_diverges(kind: Kind, how: str, tmp_path: Path) -> None:
    """With the stub, in one process and over restarts."""
    for restarts in (False, True):
        folder = tmp_path / str(restarts)
        kept = await chatted(config("stub", kind, tmp_path), folder, how, turns=4, restarts=restarts)
        assert max(kept.again) <= (0 if kind != "dense" else len("assistant\n"))
        assert one_copy(kept) <= 1.15


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("how", CHANGED)
@pytest.mark.parametrize("kind", KINDS)
async def test_twelve_turns_are_kept_once(kind: Kind, how: str, restarts: bool, tmp_path: Path) -> None:
    """With each kind of memory, whatever becomes of the replies."""
    kept = await chatted(config("llama", kind, tmp_path), tmp_path, how, turns=12, restarts=restarts)
    assert max(kept.again) <= (OPENING if kind == "dense" and restarts else 0)
    assert one_copy(kept) <= 1.15
    if kind in CARRYING:
        check_states(kept)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", CARRYING)
async def test_what_people_go_back_to_is_still_there(kind: Kind, tmp_path: Path) -> None:
    """After twelve turns and a restart: the system prompt in another chat, the last prompt for another reply, the last
    message in other words. An earlier message in other words begins within a stride and a turn of it."""
    fields = config("llama", kind, tmp_path)
    await chatted(fields, tmp_path, "edited", turns=12)
    chat: list[Message] = [{"role": "system", "content": words(0, 30)}]
    for number in range(12):
        chat += [{"role": "user", "content": words(100 + number, 8)}]
        chat += [{"role": "assistant", "content": words(200 + number, 10)}]
    other: Message = {"role": "user", "content": words(900, 8)}
    tiers: Any = {"d": {"kind": "disk", "root": tmp_path / "rows", "quota_bytes": 1 << 30}}
    async with erllama.Runtime(tiers=tiers) as runtime:
        model = await runtime.load_model("m", fields)

        async def again(asked: list[Message], diverges: list[Message]) -> int:
            """Tokens that are computed although the chat had them; `diverges` is what it has in common with it."""
            same = len(await model.apply_chat_template(diverges, add_generation_prompt=False))
            tokens = await model.apply_chat_template(asked)
            return min(same, len(tokens) - 1) - (await model.explain(tokens)).hit_tokens

        assert await again([chat[0], other], chat[:1]) <= 0
        assert await again(chat[:-1], chat[:-1]) <= 0
        assert await again([*chat[:-2], other], chat[:-2]) <= 0
        for number in range(1, 20, 2):
            assert await again([*chat[:number], other], chat[:number]) <= STRIDE + TURN


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("how", ["edited", "dropped"])
@pytest.mark.parametrize("kind", KINDS)
async def test_prompts_that_are_taken_as_they_are(kind: Kind, how: str, tmp_path: Path) -> None:
    """The same for `complete`, which knows of turns only that a token ends them."""
    kept = await chatted(config("llama", kind, tmp_path), tmp_path, how, turns=12, raw=True)
    assert max(kept.again) <= (0 if how == "edited" else OPENING)
    assert one_copy(kept) <= 1.15


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_replies_that_come_back_cost_no_more(kind: Kind, tmp_path: Path) -> None:
    """Each token is in one row."""
    kept = await chatted(config("llama", kind, tmp_path), tmp_path, "exact", turns=12)
    assert kept.stored == kept.held
    if kind in CARRYING:
        check_states(kept)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", ["full", "window", "recurrent", "hybrid"])
async def test_an_agent_whose_thoughts_are_dropped_begins_where_it_diverges(memory: str, tmp_path: Path) -> None:
    """Within its own turn thoughts stay; once the user speaks again, all since the last question are gone."""
    stub = {"memory": memory} | ({"n_swa": WINDOW} if memory == "window" else {})
    async with thinker(*SIX, tiers=on_disk(tmp_path), stub=stub, **SAVING) as (runtime, model, _):
        chat: list[Message] = [{"role": "system", "content": words(0, 30)}, question(0)]
        before, shared = list[int](), list[int]()
        for number in range(len(SIX)):
            tokens = await model.apply_chat_template(chat, tools=TOOLS)
            done = await model.chat(chat, exact_turns=False, **ASKED)
            common = in_common(before, tokens)
            assert done.stats.prefill_tokens <= len(tokens) - common
            shared.append(len(before) - common)
            before = tokens
            said, *others = next_messages(done, number)
            chat += [said | {"reasoning_content": done.thinking}, *others]
        await runtime.cache.flush()
        assert sum(row.reason == "cold" for row in await runtime.cache.rows()) > len(SIX)
    assert max(shared) > 32  # what the template has taken back of a prompt
