"""Grammars: what is wrong with one is said, none ends the process, and a good one binds every token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.tiny_gguf import tiny_gguf

from erllama_py.engine.backend import Backend, Slice
from erllama_py.engine.llama import LlamaBackend
from erllama_py.engine.llama.grammar import MAX_CHARACTERS, MAX_DEPTH, MAX_RULES
from erllama_py.errors import InvalidGrammar, SamplerFailed, TokenOutOfRange
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

PROMPT = [ord(letter) for letter in "Once upon a time"]
SMALL_STACK = 512 * 1024  # what some platforms give a thread


@pytest.fixture(scope="module")
def backend(models: Path, configure: Callable[..., ModelConfig]) -> Iterator[Backend]:
    """A loaded model whose last decode has logits in slice 0."""
    loaded = LlamaBackend("tiny", configure(tiny_gguf("dense", models)))
    loaded.load(lambda _: True)
    loaded.decode([Slice(0, 0, PROMPT, True)])
    yield loaded
    loaded.close()


def written(backend: Backend, grammar: str, count: int) -> bytes:
    """Bytes of `count` draws from the same logits."""
    sampler = backend.sampler(Sampling(temperature=0.0, grammar=grammar), PROMPT)
    text = b"".join(backend.vocabulary.token_bytes(sampler.sample(0), special=False) for _ in range(count))
    sampler.close()
    return text


@pytest.mark.parametrize(
    ("grammar", "problem"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("# nothing but a comment\n", "does not parse"),
        ('start ::= "a"', "'root' symbol"),
        ('root ::= root "a" | "b"', "left recursion"),
        ('root ::= a\na ::= b\nb ::= a "x"', "left recursion"),
        ('root ::= ("")*', "left recursion"),
        ("root ::= other", "Undefined rule identifier 'other'"),
        ("root ::= (", "expecting"),
        ("root ::= [a", "unexpected end of input"),
        ('root ::= "a', "unexpected end of input"),
        ('root = "a"', "expecting ::="),
        ('root ::= "\\xzz"', "hex chars"),
        ("root ::= +", "expecting preceding item"),
        ('root ::= "a"{100000000}', "repetitions"),
        ('root ::= "a"{5,2}', "maximum below its minimum"),
        ('root ::= "a"{5 , 2 }', "maximum below its minimum"),
        (f'root ::= "a"{{{"9" * 5000},1}}', "stoull"),
        ('root ::= "a"\0', "NUL"),
        ('root ::= "\ud800"', "UTF-8"),
        ("root ::= <nosuch>", "invalid token"),
        ("root ::= " + "(" * (MAX_DEPTH + 1) + '"a"' + ")" * (MAX_DEPTH + 1), "groups"),
        ("\n".join(f'r{i} ::= "a"' for i in range(MAX_RULES + 1)), "rules"),
        ("#" * (MAX_CHARACTERS + 1), "characters"),
    ],
)
def test_a_bad_grammar_is_refused_with_its_reason(backend: Backend, grammar: str, problem: str) -> None:
    """Most reasons are the parser's own; those that it does not survive are found before it sees them."""
    with pytest.raises(InvalidGrammar) as caught:
        backend.sampler(Sampling(grammar=grammar), [])
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('root ::= "hello"', b"hello"),
        ('root ::= "日本"', "日本".encode()),
        ('root ::= "a"{3}', b"aaa"),
        ('root ::= ( "(" | "(" ) "b" # a bracket in a literal opens no group', b"(b"),
        ("root ::= [(] [)]", b"()"),
    ],
)
def test_a_grammar_binds_what_is_written(backend: Backend, grammar: str, text: bytes) -> None:
    """With one way to go on at each step, greedy draws spell it out, then end."""
    assert written(backend, grammar, len(text) + 1) == text


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "(" * MAX_DEPTH + '"a"' + ")" * MAX_DEPTH,
        "root ::= r1\n"
        + "\n".join(f"r{i} ::= r{i + 1}" for i in range(1, MAX_RULES - 1))
        + f'\nr{MAX_RULES - 1} ::= "a"',
    ],
    ids=["groups", "rules"],
)
def test_the_deepest_grammar_fits_on_a_small_stack(backend: Backend, grammar: str) -> None:
    """The limits are such that the parser's recursion ends well before the stack does."""
    texts: list[bytes] = []
    before = threading.stack_size(SMALL_STACK)
    thread = threading.Thread(target=lambda: texts.append(written(backend, grammar, 2)))
    thread.start()
    threading.stack_size(before)
    thread.join()
    assert texts == [b"a"]


def test_a_grammar_that_allows_no_token_fails_its_request_alone(backend: Backend) -> None:
    """A token beyond the vocabulary can never come: `SamplerFailed`, and other samplers go on."""
    stuck = backend.sampler(Sampling(grammar="root ::= <[281]>"), [])
    with pytest.raises(SamplerFailed, match="allows no token"):
        stuck.sample(0)
    stuck.close()
    assert written(backend, 'root ::= "go on"', 5) == b"go on"


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_every_step_of_the_chain_works_under_a_grammar(backend: Backend, temperature: float) -> None:
    """Penalty, cuts and the draw see only what the grammar left."""
    sampling = Sampling(
        grammar="root ::= [x-z]*", temperature=temperature, repetition_penalty=1.3, top_k=2, top_p=0.9, min_p=0.1
    )
    sampler = backend.sampler(sampling, PROMPT)
    letters = {backend.vocabulary.token_bytes(sampler.sample(0), special=False) for _ in range(20)}
    sampler.close()
    assert letters <= {b"x", b"y", b"z", b""}


def test_the_history_counts_for_the_penalty_and_not_for_the_grammar(backend: Backend) -> None:
    """What was said before makes its tokens less likely, but the grammar begins with the reply."""
    sampler = backend.sampler(Sampling(temperature=0.0), [])
    favourite = sampler.sample(0)
    penalty = Sampling(temperature=0.0, repetition_penalty=1e6)
    assert backend.sampler(penalty, []).sample(0) == favourite
    assert backend.sampler(penalty, [favourite]).sample(0) != favourite
    out_of_sight = [favourite] + [PROMPT[0]] * Sampling().penalty_last_n
    assert backend.sampler(penalty, out_of_sight).sample(0) == favourite
    assert written(backend, 'root ::= "x"', 1) == b"x"


def test_a_history_with_foreign_tokens_is_refused(backend: Backend) -> None:
    """llama.cpp would read past its tables."""
    with pytest.raises(TokenOutOfRange):
        backend.sampler(Sampling(), [1 << 40])
