"""What every backend owes the engine thread, tested on all of them: llama.cpp with a tiny model of each kind
of memory, and the stub pretending to each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from helpers.backends import GREEDY, Subject, complete, write_on
from helpers.structures import lark, regex
from helpers.tiny_gguf import WINDOW
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, LoadCancelled, Slice
from erllama_py.errors import InvalidGrammar, InvalidText, ModelNotLoaded, TokenOutOfRange
from erllama_py.options.sampling import Sampling

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]


@pytest.fixture(scope="module")
def shared(subject: Subject) -> Iterator[Backend]:
    """A loaded backend for tests that only ask its vocabulary."""
    loaded = subject[2]()
    loaded.load(lambda _done: True)
    yield loaded
    loaded.close()


def noting(seen: list[float]) -> Callable[[float], bool]:
    """A progress that keeps what is reported and goes on."""

    def progress(done: float) -> bool:
        seen.append(done)
        return True

    return progress


# --- loading -------------------------------------------------------------------------------------------------


def test_a_load_reports_progress_up_to_the_whole(subject: Subject) -> None:
    """Fractions never fall and the last is 1.0."""
    backend, seen = subject[2](), list[float]()
    backend.load(noting(seen))
    backend.close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("refused_at", [0.0, 0.5, 1.0])
def test_a_load_stops_where_progress_refuses_to_go_on(subject: Subject, refused_at: float) -> None:
    """At the beginning, half-way and at the very end: `LoadCancelled`, and the backend can be closed."""
    backend = subject[2]()
    with pytest.raises(LoadCancelled):
        backend.load(lambda done: done < refused_at)
    backend.close()


def test_what_progress_raises_comes_out_of_the_load(subject: Subject) -> None:
    """An error of the callback is not swallowed on its way through foreign code."""

    def fail(done: float) -> bool:
        raise ZeroDivisionError

    backend = subject[2]()
    with pytest.raises(ZeroDivisionError):
        backend.load(fail)
    backend.close()


def test_the_facts_of_a_model_tell_its_memory_and_its_sizes(subject: Subject) -> None:
    """The kind of memory, at least the cells asked for, and the batch sizes as they are."""
    _, memory, make = subject
    backend = make()
    facts = backend.load(lambda _done: True)
    assert (facts.memory, facts.n_batch, facts.n_ubatch, facts.n_seq_max) == (memory, 512, 64, 4)
    assert facts.n_ctx >= 512
    assert facts.n_vocab == backend.vocabulary.n_vocab
    assert facts.chat_template is not None
    assert facts.n_swa == (WINDOW if memory == "window" else 0)
    backend.close()


def test_a_tokenizer_only_model_tokenizes(subject: Subject) -> None:
    """`vocab_only` loads without a context, and reports progress all the same."""
    backend, seen = subject[2]({"vocab_only": True}), list[float]()
    facts = backend.load(noting(seen))
    assert facts.n_ctx == 0
    assert seen[-1] == 1.0
    tokens = backend.vocabulary.tokenize("hello", add_special=False, parse_special=False)
    assert backend.vocabulary.detokenize(tokens, special=False) == "hello"
    backend.close()


# --- decoding ------------------------------------------------------------------------------------------------


def test_a_prompt_decoded_in_slices_gives_the_same_tokens(backend: Backend) -> None:
    """Where a prompt is cut does not show in what follows it."""
    whole = complete(backend, 0, PROMPT)
    assert complete(backend, 1, PROMPT, cuts=(1, 7, 30)) == whole
    assert complete(backend, 2, PROMPT, cuts=tuple(range(1, len(PROMPT)))) == whole


def test_sequences_decoded_together_do_not_mix(backend: Backend) -> None:
    """Each slice of a shared decode gets the token that it gets alone."""
    prompts = [PROMPT, PROMPT[5:], [7] * 20]
    alone = []
    for prompt in prompts:
        alone.append(complete(backend, 0, prompt, count=1)[0])
        assert backend.remove(0, 0, -1)
    assert backend.decode([Slice(i, 0, prompt, True) for i, prompt in enumerate(prompts)]) is DecodeStatus.DONE
    sampler = backend.sampler(GREEDY, [])
    assert [sampler.sample(i) for i in range(3)] == alone


def test_slices_without_logits_keep_their_place_in_the_count(backend: Backend) -> None:
    """`sample` counts slices, not those with logits."""
    expected = complete(backend, 0, PROMPT, count=1)
    assert backend.decode([Slice(1, 0, [1, 2, 3], False), Slice(2, 0, PROMPT, True)]) is DecodeStatus.DONE
    assert backend.sampler(GREEDY, []).sample(1) == expected[0]


def test_a_tail_that_is_removed_and_decoded_again_changes_nothing(subject: Subject, backend: Backend) -> None:
    """Memories that can be cut back give the same tokens after it; the others refuse and keep what they have."""
    first = complete(backend, 0, PROMPT)
    if subject[1] in ("full", "window"):
        assert backend.remove(0, len(PROMPT) - 1, -1)
        assert backend.positions(0)[1] == len(PROMPT) - 2
        backend.decode([Slice(0, len(PROMPT) - 1, PROMPT[-1:], True)])
        assert write_on(backend, 0, len(PROMPT), 8) == first
    else:
        before = backend.positions(0)
        assert not backend.remove(0, len(PROMPT) - 1, -1)
        assert backend.positions(0) == before


def test_a_sequence_removed_as_a_whole_can_be_used_again(backend: Backend) -> None:
    """Every kind of memory can drop a whole sequence, and nothing of it is left."""
    first = complete(backend, 0, PROMPT)
    assert backend.remove(0, 0, -1)
    assert backend.positions(0) == (-1, -1)
    assert complete(backend, 0, PROMPT) == first


def test_positions_follow_what_is_decoded(subject: Subject, backend: Backend) -> None:
    """The last position is that of the last token; the first is 0 where nothing is forgotten."""
    assert backend.positions(0) == (-1, -1)
    backend.decode([Slice(0, 0, PROMPT, False)])
    first, last = backend.positions(0)
    assert last == len(PROMPT) - 1
    assert first == (0 if subject[1] in ("full", "window") else last)
    assert backend.positions(1) == (-1, -1)


def test_a_decode_that_finds_no_cells_decodes_nothing(subject: Subject) -> None:
    """`NO_CELLS` leaves all sequences as they were, and cells set free can be used."""
    if subject[1] != "full":
        pytest.skip("a memory that forgets does not fill up like this")
    backend = subject[2](n_ctx=256, n_batch=256)
    backend.load(lambda _done: True)
    assert backend.decode([Slice(0, 0, [1] * 200, False)]) is DecodeStatus.DONE
    assert backend.decode([Slice(1, 0, [2] * 100, False)]) is DecodeStatus.NO_CELLS
    assert backend.positions(0) == (0, 199)
    assert backend.positions(1) == (-1, -1)
    assert backend.remove(0, 0, -1)
    assert backend.decode([Slice(1, 0, [2] * 100, False)]) is DecodeStatus.DONE
    backend.close()


def test_an_aborted_decode_can_be_done_again(backend: Backend) -> None:
    """While the flag is set a decode ends with `ABORTED`; after it is cleared all is as if it had not been."""
    expected = complete(backend, 0, PROMPT)
    backend.abort(True)
    assert backend.decode([Slice(1, 0, PROMPT, True)]) is DecodeStatus.ABORTED
    assert backend.positions(1) == (-1, -1)
    backend.abort(False)
    assert complete(backend, 1, PROMPT) == expected


class Chat(NamedTuple):
    """One request of a decode that is shared: it comes at a tick, and leaves with an end token or 24 tokens."""

    seq_id: int
    comes_at: int
    prompt: list[int]
    sampling: Sampling


def play(backend: Backend, chats: list[Chat]) -> list[list[int]]:
    """What each of them gets when all are decoded side by side."""
    samplers = {chat.seq_id: backend.sampler(chat.sampling, chat.prompt) for chat in chats}
    said: dict[int, list[int]] = {chat.seq_id: [] for chat in chats}
    tick = 0
    while samplers:
        parts = []
        for seq_id, comes_at, prompt, _ in chats:
            if seq_id in samplers and tick >= comes_at:
                start = len(prompt) + len(said[seq_id]) - 1 if said[seq_id] else 0
                parts.append(Slice(seq_id, start, said[seq_id][-1:] or prompt, True))
        assert backend.decode(parts) is DecodeStatus.DONE
        for index, seq_id in enumerate(part.seq_id for part in parts):
            said[seq_id].append(samplers[seq_id].sample(index))
            if backend.vocabulary.is_end(said[seq_id][-1]) or len(said[seq_id]) == 24:
                samplers.pop(seq_id).close()
                assert backend.remove(seq_id, 0, -1)
        tick += 1
    return list(said.values())


def test_eight_sequences_side_by_side_say_what_each_says_alone(subject: Subject) -> None:
    """Each has its own steps, seed and grammar. They come one after the other and leave when they are done, so that
    prompts and single tokens share decodes and a slice's index changes: no draw depends on what other requests there
    are.

    Attention is computed in 32 bits throughout. Flash attention adds up in 16: with other rows beside it, the logits
    of the tiny models then change by a hundredth, which is enough for another draw.
    """
    backend = subject[2](n_ctx=1024, n_seq_max=8, flash_attn=False, type_k="f32", type_v="f32")
    backend.load(lambda _done: True)
    grammars = (regex("[a-z ]{9,}"), regex("[A-Z]+[.]"), None, lark('start: "{" /[0-9]+/ "}"'))
    chats = [
        Chat(
            seq_id=i,
            comes_at=2 * i,
            prompt=PROMPT[i:] + PROMPT[: 5 * i],
            sampling=Sampling(
                grammar=grammars[i % 4], temperature=(0.0, 0.9, 1.5)[i % 3], repetition_penalty=1.0 + i % 2 / 5, seed=i
            ),
        )
        for i in range(8)
    ]
    together = play(backend, chats)
    assert together == [play(backend, [chat._replace(comes_at=0)])[0] for chat in chats]
    assert len({tuple(reply) for reply in together}) == len(chats)
    backend.close()


# --- sampling ------------------------------------------------------------------------------------------------


def draws(backend: Backend, sampling: Sampling, count: int = 30) -> list[int]:
    sampler = backend.sampler(sampling, [])
    tokens = [sampler.sample(0) for _ in range(count)]
    sampler.close()
    sampler.close()
    return tokens


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others(backend: Backend) -> None:
    """A seed is a promise, the one that llama.cpp takes for "any" included."""
    backend.decode([Slice(0, 0, PROMPT, True)])
    hot = [Sampling(temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed) for seed in (1, 2, 0xFFFFFFFF)]
    first, second, highest = (draws(backend, sampling) for sampling in hot)
    assert first == draws(backend, hot[0])
    assert highest == draws(backend, hot[2])
    assert first != second


def test_samplers_do_not_disturb_each_other(backend: Backend) -> None:
    """Two requests drawing in turns get what each gets alone."""
    backend.decode([Slice(0, 0, PROMPT, True)])
    sampling = Sampling(temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=3)
    alone = draws(backend, sampling)
    one, other = backend.sampler(sampling, []), backend.sampler(sampling, [])
    turns = [(one.sample(0), other.sample(0)) for _ in range(30)]
    assert [a for a, _ in turns] == alone
    assert [b for _, b in turns] == alone


def test_a_bad_grammar_is_refused_and_the_engine_goes_on(backend: Backend) -> None:
    """`InvalidGrammar` is an error of one request."""
    backend.decode([Slice(0, 0, PROMPT, True)])
    with pytest.raises(InvalidGrammar):
        backend.sampler(Sampling(grammar='start ::= "a"'), [])
    assert draws(backend, GREEDY)


# --- the vocabulary ------------------------------------------------------------------------------------------


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=200))
def test_text_survives_the_way_to_tokens_and_back(shared: Backend, text: str) -> None:
    """Any text, also one whose characters are split over several tokens.

    Some tokenizers put a space before a text; U+2581 is what they write for a space, so it comes back as one.
    """
    words = shared.vocabulary
    tokens = words.tokenize(text, add_special=False, parse_special=False)
    assert words.detokenize(tokens, special=False) == text
    data = b"".join(words.token_bytes(token, special=False) for token in tokens)
    assert data in (text.encode(), b" " + text.encode())


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "\0", "a\0b", "日本語 héé 👩‍👩‍👧", "<|im_start|>", "x" * 100_000])
def test_odd_texts_survive_too(shared: Backend, text: str) -> None:
    """Nothing, NUL bytes, joined emoji, the name of a control token as plain text, and a long one."""
    words = shared.vocabulary
    assert words.detokenize(words.tokenize(text, add_special=False, parse_special=False), special=False) == text


def test_control_tokens_are_read_and_written_only_when_asked_for(shared: Backend) -> None:
    """Text of a user cannot forge a turn, and replies do not show the tokens."""
    words = shared.vocabulary
    assert len(words.tokenize("<|im_end|>", add_special=False, parse_special=False)) > 1
    [token] = words.tokenize("<|im_end|>", add_special=False, parse_special=True)
    assert words.is_end(token)
    assert not words.is_end(words.tokenize("a", add_special=False, parse_special=False)[-1])
    assert words.token_bytes(token, special=True) == b"<|im_end|>"
    assert words.token_bytes(token, special=False) == b""
    assert words.detokenize([token], special=False) == ""


def test_bytes_that_are_no_character_become_replacement_characters(shared: Backend) -> None:
    """Tokens may be cut in the middle of a character."""
    words = shared.vocabulary
    token = next(t for t in range(words.n_vocab) if words.token_bytes(t, special=False) == b"\xf0")
    assert words.detokenize([token], special=False) == "\ufffd"


def test_a_lone_surrogate_is_no_text(shared: Backend) -> None:
    """`str` can hold what UTF-8 cannot."""
    with pytest.raises(InvalidText):
        shared.vocabulary.tokenize("a\ud800b", add_special=False, parse_special=False)


@pytest.mark.parametrize("beyond", [-1, 0, 1 << 40])
def test_tokens_out_of_range_are_refused(shared: Backend, beyond: int) -> None:
    """Below zero, one past the last, and beyond 32 bits, with the facts in the error."""
    words = shared.vocabulary
    token = beyond if beyond < 0 else words.n_vocab + beyond
    with pytest.raises(TokenOutOfRange) as caught:
        words.detokenize([token], special=False)
    assert (caught.value.token, caught.value.n_vocab) == (token, words.n_vocab)


# --- closing -------------------------------------------------------------------------------------------------


def test_a_closed_backend_refuses_what_it_is_asked(subject: Subject) -> None:
    """Closing twice is fine, and what comes after is an error, not a crash."""
    backend = subject[2]()
    backend.load(lambda _done: True)
    words = backend.vocabulary
    words.token_bytes(65, special=False)
    backend.close()
    backend.close()
    with pytest.raises(ModelNotLoaded):
        words.tokenize("a", add_special=False, parse_special=False)
    with pytest.raises(ModelNotLoaded):
        words.token_bytes(65, special=False)
    with pytest.raises(ModelNotLoaded):
        words.detokenize([65], special=False)
    with pytest.raises((ModelNotLoaded, BackendFailure)):
        backend.decode([Slice(0, 0, PROMPT, True)])


def test_two_contexts_over_the_same_weights_do_not_notice_each_other(subject: Subject) -> None:
    """Each has cells of its own; the weights are freed with the last, whichever that is."""
    _, _, make = subject
    for first_to_close in (0, 1):
        lender, borrower = make(), make()
        lender.inspect()
        lender.load(lambda _: True)
        borrower.use_weights_of(lender)
        borrower.load(lambda _: True)
        both, prompt = [lender, borrower], list(range(40, 90))
        expected = complete(lender, 0, prompt)
        assert complete(borrower, 0, prompt) == expected
        both[first_to_close].close()
        left = both[1 - first_to_close]
        assert left.vocabulary.tokenize("a", add_special=False, parse_special=False)
        assert left.remove(0, 0, -1)
        assert complete(left, 0, prompt) == expected
        left.close()
        left.close()
