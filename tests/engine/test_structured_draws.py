"""Draws under a structure, on every backend: what it allows and nothing else, by the chain's own odds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.draws import Draws
from helpers.structures import lark, regex, schema
from helpers.tiny_gguf import tiny_gguf
from helpers.ways_to_draw import DRAWS, SIZES, bans, rows_of, samplings
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import Backend, Slice
from erllama_py.engine.banned import Banned
from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.weights import load_model
from erllama_py.errors import SamplerFailed, TokenOutOfRange
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

PROMPT = [ord(letter) for letter in "Once upon a time"]


@pytest.fixture
def decoded(backend: Backend) -> Backend:
    """One whose last decode has logits in slice 0."""
    backend.decode([Slice(0, 0, PROMPT, True)])
    return backend


def written(backend: Backend, grammar: str, count: int, **options: Any) -> bytes:
    """Bytes of `count` draws from the same logits."""
    sampler = backend.sampler(Sampling(grammar=grammar, **{"temperature": 0.0, **options}), PROMPT)
    text = b"".join(backend.vocabulary.token_bytes(sampler.sample(0), special=False) for _ in range(count))
    sampler.close()
    return text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("text", ["hello", "日本", "a" * 5, '(b" \\'])
def test_with_one_way_to_go_on_it_is_taken(decoded: Backend, text: str, temperature: float) -> None:
    """Whatever the model thinks of it; then the reply ends."""
    one_way = lark(f"start: {schema_string(text)}")
    count = len(decoded.vocabulary.tokenize(text, add_special=False, parse_special=False))
    assert written(decoded, one_way, count + 1, temperature=temperature, seed=1) == text.encode()


def schema_string(text: str) -> str:
    """A literal of Lark."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize("sampling", [
    {"temperature": 0.0}, {}, {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}, {"mirostat": 2},
    {"repetition_penalty": 1.3, "top_k": 2, "top_p": 0.9, "min_p": 0.1}, {"dry_multiplier": 1.0, "typical_p": 0.5},
    {"top_n_sigma": 1.0, "xtc_probability": 1.0}, {"logit_bias": {ord("x"): -float("inf"), ord("q"): 1000.0}},
])  # fmt: skip
def test_every_step_of_the_chain_works_under_a_structure(decoded: Backend, sampling: dict[str, Any]) -> None:
    """Penalties, cuts, biases and the draw see only what the structure leaves."""
    sampler = decoded.sampler(Sampling(grammar=regex("[x-z]*"), **{"seed": 3, **sampling}), PROMPT)
    tokens = [sampler.sample(0) for _ in range(30)]
    sampler.close()
    assert {*b"".join(decoded.vocabulary.token_bytes(token, special=False) for token in tokens)} <= {*b"xyz"}
    assert "logit_bias" not in sampling or ord("x") not in tokens


def test_a_structure_that_allows_no_token_fails_its_request_alone(decoded: Backend) -> None:
    """All that it allows is banned: `SamplerFailed`, and other samplers go on."""
    [q] = decoded.vocabulary.tokenize("q", add_special=False, parse_special=False)[-1:]
    stuck = decoded.sampler(Sampling(grammar=regex("q"), logit_bias={q: -float("inf")}), [])
    with pytest.raises(SamplerFailed):
        stuck.sample(0)
    stuck.close()
    assert written(decoded, lark('start: "go on"'), 5) == b"go on"


def test_the_history_counts_for_the_penalty_and_not_for_the_structure(decoded: Backend) -> None:
    """The structure begins with the reply."""
    history = [*PROMPT, *b'{"name": ']
    sampler = decoded.sampler(Sampling(grammar=regex("[xy]"), repetition_penalty=1.5), history)
    assert decoded.vocabulary.token_bytes(sampler.sample(0), special=False) in (b"x", b"y")
    sampler.close()


@pytest.mark.parametrize("subject", ["llama-dense"], indirect=True)
def test_a_history_with_foreign_tokens_is_refused(decoded: Backend) -> None:
    """llama.cpp would read past its tables."""
    with pytest.raises(TokenOutOfRange):
        decoded.sampler(Sampling(), [1 << 40])


PERSON = schema({
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "kind": {"enum": ["alpha", "beta"]}},
    "required": ["name", "kind"], "additionalProperties": False,
})  # fmt: skip


def test_forced_tokens_come_without_a_draw_and_are_those_that_draws_would_give(decoded: Backend) -> None:
    """From the same logits, greedy; and what is forced ends the text that the model chose."""

    def reply(together: bool) -> list[int]:
        sampler, tokens = decoded.sampler(Sampling(grammar=PERSON, temperature=0.0), PROMPT), list[int]()
        while not sampler.is_over:
            tokens += (sampler.forced() if together else []) or [sampler.sample(0)]
        sampler.close()
        return tokens

    assert reply(True) == reply(False)
    text = b"".join(decoded.vocabulary.token_bytes(token, special=False) for token in reply(True)).decode()
    assert json.loads(text)["kind"] in ("alpha", "beta")


# --- against llama.cpp's own chain -----------------------------------------------------------------------------------


class Masks:
    """In place of a matcher: for each draw which tokens it may give."""

    is_over = False

    def __init__(self, masks: Any) -> None:
        self._masks, self._drawn = masks, 0

    def allowed(self, count: int) -> Any:
        return self._masks[self._drawn][:count]

    def allows(self, token: int) -> bool:
        return bool(self._masks[self._drawn][token])

    def accept(self, token: int) -> None:
        assert self.allows(token)
        self._drawn += 1


@pytest.fixture(scope="module")
def worlds(models: Path, configure: Callable[..., ModelConfig]) -> Iterator[dict[int, Draws]]:
    """Samplers without a model's decode, by the size of the vocabulary."""
    lib, path = library(), tiny_gguf("dense", models)
    model = load_model(lib, str(path), configure(path, model_opts={"vocab_only": True}), "tiny", lambda _: True)
    words = lib.c.llama_model_get_vocab(model)
    yield {n_vocab: Draws(lib, n_vocab, words) for n_vocab in SIZES}
    lib.c.llama_model_free(model)


@pytest.mark.slow
@given(
    n_vocab=st.sampled_from(SIZES), sampling=samplings(), seed=st.integers(0, 2**32 - 1), banned=bans(),
    shape=st.sampled_from(["flat", "wide", "peaked"]), share=st.sampled_from([0.0, 0.01, 0.3, 0.99]),
    history=st.lists(st.integers(0, 11), max_size=20),
)  # fmt: skip
def test_a_draw_is_that_of_llama_cpps_chain_over_what_is_allowed(
    worlds: dict[int, Draws], n_vocab: int, sampling: Sampling, seed: int, banned: Banned, shape: str, share: float,
    history: list[int],
) -> None:  # fmt: skip
    """Few and many allowed tokens, all options, biases and bans."""
    world, luck = worlds[n_vocab], np.random.default_rng(seed)
    world.decoded.show(rows_of(seed, n_vocab, shape))
    masks = luck.random((DRAWS, n_vocab)) < share
    masks[:, luck.integers(36, 40)] = True  # one that `bans` never bans
    matcher: Any = Masks(masks)
    ours, theirs = world.sampler(sampling, history, banned, matcher), world.chain(sampling, history, banned, masks)
    drawn = [ours.sample(i) for i in range(DRAWS)]
    ours.close()
    expected = [theirs.sample(i) for i in range(DRAWS)]
    theirs.close()
    assert drawn == expected
