"""What may come next under a grammar: matchers over the tokens of a llama.cpp model and of the stub."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from helpers.backends import make_subject
from helpers.structures import lark, regex, schema

from erllama_py.engine import structure
from erllama_py.engine.backend import Backend, Vocabulary
from erllama_py.engine.guidance import Guide
from erllama_py.engine.structure import Matcher, compile
from erllama_py.errors import InvalidGrammar, ModelNotLoaded, SamplerFailed

SCHEMA = {
    "type": "object",
    "properties": {"full_name": {"type": "string"}, "kind": {"enum": ["alpha-centauri", "beta"]}},
    "required": ["full_name", "kind"],
    "additionalProperties": False,
}


LETTERS = regex("[a-c]{1,3}")


@pytest.fixture(scope="module", params=["llama", "stub"])
def loaded(request: pytest.FixtureRequest, models: Path) -> Iterator[Backend]:
    backend = make_subject(request.param, "dense", models)
    backend.load(lambda _done: True)
    yield backend
    backend.close()


@pytest.fixture
def words(loaded: Backend) -> Vocabulary:
    return loaded.vocabulary


def allowed(matcher: Matcher) -> list[int]:
    bits = numpy.unpackbits(matcher.mask().view(numpy.uint8), bitorder="little")
    return [int(token) for token in numpy.flatnonzero(bits)]


def text(words: Vocabulary, tokens: list[int]) -> str:
    return b"".join(words.token_bytes(token, special=False) for token in tokens).decode()


def test_what_is_allowed_is_what_the_grammar_says(words: Vocabulary) -> None:
    """The texts of all tokens that may begin a reply, and of all that may not; ends only where the reply may end."""
    matcher = compile(LETTERS, words.structure_tokenizer())
    texts = {text(words, [token]) for token in allowed(matcher)}
    assert {"a", "b", "c"} <= texts
    assert all(1 <= len(one) <= 3 and set(one) <= set("abc") for one in texts)
    assert not any(map(matcher.allows, words.ends))
    [first] = [token for token in allowed(matcher) if text(words, [token]) == "b"]
    assert matcher.allows(first)
    matcher.accept(first)
    assert not matcher.is_over
    assert {token for token in allowed(matcher) if words.is_end(token)} == set(words.ends)


def test_a_reply_that_is_complete_is_over(words: Vocabulary) -> None:
    """Only its end may follow, whether that is drawn or not."""
    matcher = compile(lark('start: "ab" | "ac"'), words.structure_tokenizer())
    for token in words.tokenize("ac", add_special=False, parse_special=False):
        matcher.accept(token)
    assert matcher.is_over
    assert allowed(matcher) == list(words.ends)
    assert matcher.forced() == []


def test_a_token_that_may_not_come_is_refused(words: Vocabulary) -> None:
    """The matcher is of no use after it, and says so each time."""
    matcher = compile(LETTERS, words.structure_tokenizer())
    [z] = words.tokenize("z", add_special=False, parse_special=False)[-1:]
    assert not matcher.allows(z)
    for _ in range(2):
        with pytest.raises(SamplerFailed, match="structure"):
            matcher.accept(z)


def test_copies_do_not_know_of_each_other(words: Vocabulary) -> None:
    """One goes on, the other stays; both may be copied again."""
    one = compile(schema(SCHEMA), words.structure_tokenizer())
    one.forced()
    other = one.copy()
    before = allowed(other)
    draw(words, one, random.Random(1), forced=True)
    assert allowed(other) == before
    assert allowed(other.copy()) == before


def draw(words: Vocabulary, matcher: Matcher, luck: random.Random, *, forced: bool) -> list[int]:
    """A reply of random tokens, with what is forced taken together or drawn one by one."""
    tokens: list[int] = []
    while not matcher.is_over:
        if forced and (together := matcher.forced()):
            tokens += together
            continue
        choices = [token for token in allowed(matcher) if token not in words.ends]
        if len(choices) == 1:
            tokens += choices
        else:
            ending = [token for token in choices if text_of(words, token).startswith('"')]
            tokens.append(luck.choice(ending if ending and luck.random() < 0.3 else choices))
        matcher.accept(tokens[-1])
    return tokens


def text_of(words: Vocabulary, token: int) -> str:
    return words.token_bytes(token, special=False).decode(errors="replace")


@pytest.mark.parametrize("seed", range(10))
def test_what_is_forced_is_what_would_be_drawn(words: Vocabulary, seed: int) -> None:
    """Token by token, with the same luck, the same reply; it is of the schema, and most of it was forced."""
    tokenizer = words.structure_tokenizer()
    one = draw(words, compile(schema(SCHEMA), tokenizer), random.Random(seed), forced=True)
    assert one == draw(words, compile(schema(SCHEMA), tokenizer), random.Random(seed), forced=False)
    assert json.loads(text(words, one))["kind"] in ("alpha-centauri", "beta")


def test_long_runs_are_forced_piece_by_piece(words: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call takes long; what is left comes with the next, and is not looked for again."""
    looked: list[list[int]] = []
    ahead = Guide.ahead

    def seen(guide: Guide) -> list[int]:
        looked.append(ahead(guide))
        return looked[-1]

    monkeypatch.setattr(Guide, "ahead", seen)
    run = "abc " * 200
    matcher = compile(lark(f'start: "{run}"'), words.structure_tokenizer())
    pieces = []
    while piece := matcher.forced():
        pieces.append(piece)
    assert all(len(piece) == structure.MOST_FORCED for piece in pieces[:-1])
    assert len(pieces) > 1
    assert len(looked) == 1
    assert run.startswith(text(words, [token for piece in pieces for token in piece]))


BAD = {
    "nothing": "",
    "no grammar": "start ::= nonsense",
    "no start rule": lark('stop: "a"'),
    "bad regex": regex("("),
    "unknown type": schema({"type": "nothing"}),
    "unknown keyword": schema({"type": "object", "minProperties": 1, "unevaluatedProperties": False}),
    "no text": "start: \ud800",
    "too long": "start: " + '"a" ' * (structure.MOST_CHARACTERS // 4),
}


@pytest.mark.parametrize("grammar", BAD.values(), ids=BAD)
def test_bad_grammars_are_told(words: Vocabulary, grammar: str) -> None:
    """One line of words, and nothing is kept of it."""
    tokenizer = words.structure_tokenizer()
    with pytest.raises(InvalidGrammar) as caught:
        compile(grammar, tokenizer)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert tokenizer.known(grammar) is None


def test_so_many_are_kept_and_no_more(words: Vocabulary) -> None:
    """The one that was not asked for the longest goes."""
    tokenizer = words.structure_tokenizer()
    grammars = [regex(f"a{{{count}}}") for count in range(1, structure.MOST_COMPILED + 2)]
    for grammar in grammars:
        compile(grammars[0], tokenizer)
        compile(grammar, tokenizer)
    known = [grammar for grammar in grammars if tokenizer.known(grammar) is not None]
    assert known == [grammars[0], *grammars[2:]]


def test_threads_may_compile_at_once(models: Path) -> None:
    """The tokenizer is made once."""
    backend = make_subject("llama", "dense", models)
    backend.load(lambda _done: True)
    with ThreadPoolExecutor(4) as pool:
        tokenizers = list(pool.map(lambda _: backend.vocabulary.structure_tokenizer(), range(4)))
        masks = list(pool.map(lambda one: allowed(compile(LETTERS, one)), tokenizers))
        made = list(pool.map(lambda one: one.make(), tokenizers))
    assert all(one is made[0] for one in made)
    assert all(mask == masks[0] for mask in masks)
    backend.close()


@pytest.mark.parametrize("name", ["llama", "stub"])
def test_a_closed_vocabulary_compiles_no_more(name: str, models: Path) -> None:
    """What it was made from is gone."""
    backend = make_subject(name, "dense", models)
    backend.load(lambda _done: True)
    tokenizer = backend.vocabulary.structure_tokenizer()
    compile(LETTERS, tokenizer)
    backend.close()
    with pytest.raises(ModelNotLoaded):
        compile(regex("x"), tokenizer)
    with pytest.raises(ModelNotLoaded):
        backend.vocabulary.structure_tokenizer()
