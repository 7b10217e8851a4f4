"""Warm replies: what is found again after a restart, by which requests, and that the reply is that of a cold start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.cache import MEMORIES, PROMPT, TIER, ask, cold, config, model_at, ram_model, runtime_at, spans, text

pytestmark = pytest.mark.anyio

LONG = 100  # tokens of a reply that passes `continued_interval` some times


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "ram_file"])
@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_prompt_is_warm_after_a_restart(tmp_path: Path, memory: str, kind: str) -> None:
    """The reply of a cold runtime, from rows: one token at most is computed. The stats say where the rest is from."""
    async with model_at(tmp_path, memory, kind) as (_, model):
        first = await ask(model, PROMPT)
    assert first.stats.prefill_tokens == len(PROMPT)
    assert first.cache_delta.created == first.committed_tokens
    async with model_at(tmp_path, memory, kind) as (runtime, model):
        warm = await ask(model, PROMPT)
        counters = await runtime.cache.counters()
        assert model.last_cache_hit is not None
        assert model.last_cache_hit.prefix_len == warm.cache_delta.read
    assert warm.reply == first.reply == await cold(PROMPT, memory=memory)
    assert warm.cache_hit_kind == "exact"
    assert warm.stats.tier == TIER
    assert warm.stats.miss_reason is None
    assert warm.stats.restored_bytes > 0
    # A recurrent state cannot be cut back: its row brings the logits along, and nothing is computed.
    assert warm.stats.prefill_tokens == (0 if memory in ("recurrent", "hybrid") else 1)
    assert warm.cache_delta.read == len(PROMPT) - warm.stats.prefill_tokens
    assert counters["hits.exact"] == 1
    assert counters[f"hits.tier.{TIER}"] == 1
    assert counters["restored.tokens"] >= len(PROMPT)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_the_last_tokens_of_a_prompt_come_back_too(tmp_path: Path, memory: str) -> None:
    """A few after the last boundary, in a row that continues with the reply: costly tokens are worth reading it."""
    prompt, slow = PROMPT[:266], {"seconds_per_token": 0.001}
    async with model_at(tmp_path, memory, stub=slow) as (_, model):
        first = await ask(model, prompt)
    async with model_at(tmp_path, memory, stub=slow) as (_, model):
        warm = await ask(model, prompt)
    assert warm.reply == first.reply
    assert warm.cache_hit_kind == "exact"
    assert warm.stats.prefill_tokens == (0 if memory in ("recurrent", "hybrid") else 1)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("length", [100, 256, 300])
@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_prompt_in_rows_as_long_as_the_window_is_warm(tmp_path: Path, memory: str, length: int) -> None:
    """They cannot be cut back by a token to compute its logits again, so they bring them along."""
    prompt, policy = PROMPT[:length], {"boundary_align_tokens": 128}
    async with model_at(tmp_path, memory, policy=policy) as (_, model):
        first = await ask(model, prompt)
    async with model_at(tmp_path, memory, policy=policy) as (_, model):
        warm = await ask(model, prompt)
    assert warm.reply == first.reply == await cold(prompt, memory=memory)
    assert (warm.cache_hit_kind, warm.stats.miss_reason) == ("exact", None)
    assert warm.stats.prefill_tokens <= 1


@pytest.mark.either_loop
@pytest.mark.parametrize("memory", MEMORIES)
async def test_the_same_prompt_again_computes_nothing(memory: str) -> None:
    """In one process its logits are at hand: live cells where they can be cut back, rows where not."""
    async with ram_model(memory) as (runtime, model):
        first = await ask(model, PROMPT)
        await runtime.cache.flush()
        again = await ask(model, PROMPT)
        # Another prompt takes the cells; then only rows have the first one.
        await ask(model, text(200, seed=1))
        await runtime.cache.flush()
        later = await ask(model, PROMPT)
    assert first.reply == again.reply == later.reply == await cold(PROMPT, memory=memory)
    assert again.stats.prefill_tokens == later.stats.prefill_tokens == 0
    assert again.stats.first_token_seconds > 0
    assert later.cache_hit_kind == "exact"
    assert later.cache_delta.read == len(PROMPT)
    assert later.stats.tier == "ram"


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_conversation_goes_on_after_a_restart_from_where_its_reply_ended(tmp_path: Path, memory: str) -> None:
    """The next turn begins with prompt and reply: the finish row ends there, at no round number."""
    async with model_at(tmp_path, memory) as (_, model):
        first = await ask(model, PROMPT, LONG)
    turn = [*PROMPT.encode(), *first.generated, *b" and then?"]
    async with model_at(tmp_path, memory) as (_, model):
        warm = await ask(model, turn)
    assert warm.reply == await cold(turn, memory=memory)
    assert warm.cache_delta.read == first.committed_tokens
    assert warm.stats.prefill_tokens == len(turn) - first.committed_tokens
    assert warm.cache_hit_kind == "partial"


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_long_reply_is_saved_as_it_grows(tmp_path: Path, memory: str) -> None:
    """Every `continued_interval` tokens, counted from the prompt's end: a prompt that ends after one hits there."""
    async with model_at(tmp_path, memory) as (runtime, model):
        reply = await ask(model, PROMPT, LONG)
        await runtime.cache.flush()
        ends = {end for _, end in await spans(runtime)}
        counters = await runtime.cache.counters()
    assert {324, 348} <= ends
    assert counters["saves.continued"] == (reply.committed_tokens - len(PROMPT)) // 24
    turn = [*PROMPT.encode(), *reply.generated[:50], *b"!?"]
    async with model_at(tmp_path, memory) as (_, model):
        warm = await ask(model, turn)
    assert warm.reply == await cold(turn, memory=memory)
    # Where a sequence can be cut back, the row after it gives two more tokens: the stub computes those sooner.
    assert warm.cache_delta.read == 348


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_prompt_that_begins_alike_takes_what_they_share(tmp_path: Path, memory: str) -> None:
    """Rows up to the last end that both have, and a part of the next one where a sequence can be cut back."""
    async with model_at(tmp_path, memory) as (_, model):
        await ask(model, PROMPT)
    other = PROMPT[:240] + text(100, seed=2)
    async with model_at(tmp_path, memory) as (runtime, model):
        warm = await ask(model, other)
        await runtime.cache.flush()
        counters = await runtime.cache.counters()
        assert {(0, 64), (64, 128), (128, 192)} <= await spans(runtime)
    assert warm.reply == await cold(other, memory=memory)
    assert warm.cache_hit_kind == "partial"
    assert warm.cache_delta.read == (240 if memory in ("full", "window") else 192)
    assert warm.stats.miss_reason == "the prompt diverges from what is saved at token 240"
    assert counters["hits.partial"] == 1


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_another_chat_with_the_same_system_prompt_computes_only_its_own_tokens(
    tmp_path: Path, memory: str
) -> None:
    """After a restart too: a row ends where the user's words begin."""

    def chat(words: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": text(150, seed=3)}, {"role": "user", "content": words}]

    options: dict[str, Any] = {"response_tokens": 12, "temperature": 0.0}
    async with model_at(tmp_path, memory) as (_, model):
        await model.chat(chat("What is the capital of France?"), **options)
        shared = len(await model.apply_chat_template(chat(""), add_generation_prompt=False)) - 2
    async with model_at(tmp_path, memory) as (_, model):
        warm = await model.chat(chat("How high is the Eiffel tower?"), **options)
        tokens = await model.apply_chat_template(chat("How high is the Eiffel tower?"))
    assert warm.reply == await cold(tokens, memory=memory)
    assert warm.prompt_tokens == len(tokens)
    # The token before the user's words may merge with them, so it is not counted in.
    assert shared - 1 <= warm.cache_delta.read <= shared
    assert warm.stats.prefill_tokens == len(tokens) - warm.cache_delta.read


async def test_a_wider_context_keeps_the_cache_warm(tmp_path: Path) -> None:
    """Empty cells change nothing in those that are not; nor do the sizes of batches and the number of sequences."""
    async with model_at(tmp_path) as (_, model):
        await ask(model, PROMPT)
    wider = {"n_ctx": 16384, "n_batch": 128, "n_ubatch": 32, "n_seq_max": 4, "n_threads": 1}
    async with model_at(tmp_path, context_opts=wider) as (_, model):
        warm = await ask(model, PROMPT)
    assert warm.cache_hit_kind == "exact"
    assert warm.reply == await cold(PROMPT)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"context_opts": {"type_k": "q8_0"}},
        {"context_opts": {"type_v": "bf16"}},
        {"context_opts": {"flash_attn": True}},
        {"context_opts": {"rope_freq_base": 20_000.0}},
        {"context_opts": {"rope_scaling_type": "yarn"}},
        {"context_opts": {"swa_full": True}},
        {"ctx_params_hash": "ab" * 32},
        {"fingerprint": "cd" * 32, "fingerprint_mode": "fast_unsafe"},
        {"cache_salt": "another tenant"},
    ],
    ids=lambda change: str(change),
)
async def test_what_changes_the_cells_does_not_hit(tmp_path: Path, change: dict[str, Any]) -> None:
    """Settings that the bytes depend on, another file, another tenant: the prompt is computed, and both are kept."""
    async with model_at(tmp_path) as (_, model):
        await ask(model, PROMPT)
    async with model_at(tmp_path, **change) as (_, model):
        other = await ask(model, PROMPT)
        assert (await model.explain(text(300, seed=9))).hit_tokens == 0
    assert other.cache_hit_kind == "cold"
    assert other.stats.prefill_tokens == len(PROMPT)
    same_model = "context_opts" in change or "ctx_params_hash" in change
    other_settings = "what is saved for this model was made with other settings, or by another build"
    assert other.stats.miss_reason == (other_settings if same_model else "nothing is saved for this model")
    for again in ({}, change):
        async with model_at(tmp_path, **again) as (_, model):
            assert (await ask(model, PROMPT)).cache_hit_kind == "exact"


async def test_a_salt_separates_rows_and_live_cells() -> None:
    """Per model and per request: what is saved or live under one salt is found only under the same one."""
    async with ram_model(cache_salt="a") as (runtime, model):
        first = await ask(model, PROMPT)
        await runtime.cache.flush()
        other = await ask(model, PROMPT, cache_salt="b")
        await runtime.cache.flush()
        same = await ask(model, PROMPT)
        live = await ask(model, PROMPT + " more")
        stranger = await ask(model, PROMPT + " more", cache_salt="b")
        assert (await model.explain(PROMPT)).hit_tokens == len(PROMPT)
        assert (await model.explain(PROMPT, cache_salt="c")).hit_tokens == 0
    assert other.cache_hit_kind == "cold"
    assert other.stats.prefill_tokens == len(PROMPT)
    assert same.cache_hit_kind == "exact"
    assert same.stats.tier == "ram"
    assert live.cache_hit_kind == "live"
    assert stranger.stats.tier == "ram"
    assert first.reply == other.reply == same.reply == await cold(PROMPT)
    assert live.reply == stranger.reply == await cold(PROMPT + " more")


async def test_a_salt_separates_what_can_be_learnt_of_rows() -> None:
    """Without the salt it is not visible that a prompt was ever seen, nor which of its prefixes are there."""
    async with ram_model(policy={"min_tokens": 16, "boundary_align_tokens": 64}) as (runtime, model):
        await ask(model, PROMPT, cache_salt="a")
        await runtime.cache.flush()
        tokens = list(PROMPT.encode())
        for salt, seen in (("a", True), ("b", False), (None, False)):
            explained = await model.explain(PROMPT, cache_salt=salt)
            assert (explained.hit_tokens > 0, explained.live_tokens > 0) == (seen, seen)
            assert bool(await model.list_cached_prefixes(tokens, cache_salt=salt)) == seen


async def test_a_prompt_that_is_only_computed_is_saved_under_its_salt() -> None:
    """And is found only under that one."""
    async with ram_model() as (runtime, model):
        warmed = await model.prefill_only(PROMPT, cache_salt="a")
        await runtime.cache.flush()
        assert warmed.finish_key in {row.key for row in await runtime.cache.rows()}
        assert (await model.explain(PROMPT)).hit_tokens == 0
        assert (await model.explain(PROMPT, cache_salt="a")).hit_tokens == len(PROMPT)
        assert (await model.prefill_only(PROMPT)).cache_hit_kind == "cold"
        assert (await model.prefill_only(PROMPT, cache_salt="a")).stats.prefill_tokens == 0


async def test_a_salt_of_a_request_takes_the_place_of_the_models() -> None:
    """So a request can reach what another model has saved under that salt."""
    async with ram_model(cache_salt="a") as (runtime, model):
        other = await runtime.load_model("other", config())
        await ask(other, PROMPT, cache_salt="a")
        await runtime.cache.flush()
        assert (await ask(other, PROMPT, cache_salt="b")).cache_hit_kind == "cold"
        assert (await ask(model, PROMPT)).cache_hit_kind == "exact"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "ram"])
async def test_two_models_on_one_tier_never_meet(tmp_path: Path, kind: str) -> None:
    """Both are warm with their own rows; the same prompt of the other is not found."""
    where: dict[str, Any] = {"kind": None if kind == "ram" else kind}
    files = [{"fingerprint": digit * 64, "fingerprint_mode": "fast_unsafe"} for digit in "12"]
    async with runtime_at(tmp_path) as runtime:
        one = await runtime.load_model("one", config(**where, **files[0]))
        two = await runtime.load_model("two", config("window", **where, **files[1]))
        first, second = await ask(one, PROMPT), await ask(two, PROMPT)
        assert first.cache_hit_kind == second.cache_hit_kind == "cold"
        await runtime.cache.flush()
        for model, memory in ((one, "full"), (two, "window")):
            await ask(model, text(100, seed=4))
            await runtime.cache.flush()
            warm = await ask(model, PROMPT)
            assert warm.cache_hit_kind == "exact"
            assert warm.reply == await cold(PROMPT, memory=memory)
        assert len({row.fingerprint for row in await runtime.cache.rows()}) == 2


async def test_two_models_of_one_file_share_their_rows(tmp_path: Path) -> None:
    """Eight agents, one system prompt: whoever computes it saves it for all."""
    async with runtime_at(tmp_path) as runtime:
        one = await runtime.load_model("one", config(kind="disk"))
        two = await runtime.load_model("two", config(kind="disk", context_opts={"n_ctx": 1024}))
        await ask(one, PROMPT)
        await runtime.cache.flush()
        warm = await ask(two, PROMPT)
    assert warm.cache_hit_kind == "exact"
    assert warm.reply == await cold(PROMPT)


async def test_explain_says_what_would_hit_and_where_it_parts(tmp_path: Path) -> None:
    """Without a change to anything: how much, from where, how many bytes, and the first token that is not there."""
    async with model_at(tmp_path) as (runtime, model):
        nothing = await model.explain(PROMPT)
        assert (nothing.hit_tokens, nothing.rows, nothing.tiers) == (0, 0, ())
        assert nothing.miss_reason == "nothing is saved for this model"
        done = await ask(model, PROMPT)
        await runtime.cache.flush()
        before = await runtime.cache.counters()
        whole = await runtime.explain("m", PROMPT)
        assert (whole.prompt_tokens, whole.hit_tokens, whole.tiers) == (300, 300, (TIER,))
        assert (whole.miss_reason, whole.position, whole.text) == (None, None, None)
        assert whole.rows == 5
        assert whole.nbytes > 0
        parts = await model.explain(PROMPT[:250] + "?" + PROMPT[251:])
        assert (parts.hit_tokens, parts.position, parts.text) == (250, 250, "?")
        assert parts.miss_reason == "the prompt diverges from what is saved at token 250"
        longer = await model.explain([*PROMPT.encode(), *done.generated, *b"!!"])
        assert (longer.hit_tokens, longer.position) == (311, 311)
        assert longer.miss_reason == "what is saved ends at token 311"
        strange = await model.explain("?" + PROMPT)
        assert (strange.hit_tokens, strange.position, strange.text) == (0, 0, "?")
        assert (await model.explain("short")).miss_reason == "prompts below min_tokens (32) are not saved"
        assert await model.list_cached_prefixes([63] * 300) == []
        assert await runtime.cache.counters() == before
        assert {row.hits for row in await runtime.cache.rows()} == {0}
