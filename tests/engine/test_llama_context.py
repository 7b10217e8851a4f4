"""What is llama.cpp's own: its parameters, its limits, its sliding window, and stopping it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers.structures import regex
from helpers.tiny_gguf import WINDOW, Kind, tiny_gguf

from erllama_py.engine.backend import BackendFailure, DecodeStatus, Slice
from erllama_py.engine.llama import LlamaBackend
from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.weights import attention_of
from erllama_py.errors import ModelLoadError, ModelNotLoaded, SamplerFailed, TokenizerOnly
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

Configure = Callable[..., ModelConfig]
GREEDY = Sampling(temperature=0.0)
PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]
MEGABYTE = 1 << 20


def loaded(config: ModelConfig) -> LlamaBackend:
    backend = LlamaBackend("tiny", config)
    backend.load(lambda _: True)
    return backend


@pytest.fixture
def dense(models: Path, configure: Configure) -> Iterator[LlamaBackend]:
    backend = loaded(configure(tiny_gguf("dense", models)))
    yield backend
    backend.close()


@pytest.mark.parametrize("devices", [True, False], ids=["GPU build", "CPU build"])
def test_a_decode_is_over_when_it_returns(
    models: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, devices: bool
) -> None:
    """A GPU goes on after `llama_decode`: it is waited for, before anybody asks for logits."""
    calls, bindings = list[str](), library().c

    def recorded(name: str) -> Callable[..., Any]:
        original = getattr(bindings, name)

        def call(*args: Any) -> Any:
            calls.append(name)
            return original(*args)

        return call

    monkeypatch.setattr(bindings, "llama_supports_gpu_offload", lambda: devices)
    backend = loaded(configure(tiny_gguf("dense", models)))
    for name in ("llama_decode", "llama_synchronize"):
        monkeypatch.setattr(bindings, name, recorded(name))
    for start in (0, 4):
        assert backend.decode([Slice(0, start, PROMPT[start : start + 4], True)]) is DecodeStatus.DONE
    assert calls == ["llama_decode", "llama_synchronize"][: 1 + devices] * 2
    backend.close()


# --- parameters ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "context",
    [
        {"flash_attn": True},
        {"flash_attn": False},
        {"type_k": "q8_0", "type_v": "bf16"},
        {"type_k": "f32", "type_v": "f32", "offload_kqv": False, "swa_full": True},
        {"n_ubatch": 16, "n_seq_max": 8, "n_threads": 2, "n_threads_batch": 2},
        {"rope_scaling_type": "linear", "rope_freq_scale": 0.5, "rope_freq_base": 20000.0},
        {"rope_scaling_type": "yarn", "yarn_orig_ctx": 256, "yarn_ext_factor": 1.0, "yarn_beta_fast": 16.0},
    ],
)
def test_context_options_reach_llama_cpp(models: Path, configure: Configure, context: dict[str, Any]) -> None:
    """Each combination loads and decodes."""
    backend = loaded(configure(tiny_gguf("dense", models), **context))
    assert backend.decode([Slice(0, 0, PROMPT, True)]) is DecodeStatus.DONE
    backend.close()


@pytest.mark.parametrize(
    "model_opts",
    [
        {"use_mmap": False},
        {"use_mlock": True},
        {"use_mmap": False, "use_mlock": True},
        {"n_gpu_layers": 99, "split_mode": "none", "main_gpu": 0, "tensor_split": (1.0,)},
    ],
)
def test_model_options_reach_llama_cpp(models: Path, configure: Configure, model_opts: dict[str, Any]) -> None:
    """Each combination loads, with a GPU or without."""
    loaded(configure(tiny_gguf("dense", models), model_opts=model_opts)).close()


def test_rope_settings_change_what_is_computed(models: Path, configure: Configure) -> None:
    """An option that reached nothing would leave the reply as it is."""
    replies = []
    for context in ({}, {"rope_freq_base": 100.0}):
        backend = loaded(configure(tiny_gguf("dense", models), **context))
        backend.decode([Slice(0, 0, PROMPT, True)])
        replies.append(backend.logits(0))
        backend.close()
    assert replies[0] != replies[1]


@pytest.mark.parametrize("flash_attn", [True, False])
@pytest.mark.parametrize("kind", ["dense", "window", "hybrid"])
def test_the_facts_say_whether_flash_attention_is_used(
    models: Path, configure: Configure, kind: Kind, flash_attn: bool
) -> None:
    """Compared with a captured state, where it shows as values that are not transposed."""
    backend = LlamaBackend("tiny", configure(tiny_gguf(kind, models), flash_attn=flash_attn))
    facts = backend.load(lambda _: True)
    assert (facts.flash_attn, facts.transposed) == (flash_attn, not flash_attn)
    backend.decode([Slice(0, 0, [1], False)])
    state = backend.capture(0, 0, 1, lambda size: memoryview(bytearray(size)))
    backend.close()
    assert state is not None
    # After magic, sequence, number of streams and of cells, and one cell of three words.
    transposed = int.from_bytes(state[28:32], "little")
    assert transposed == (not flash_attn)


def test_flash_attention_that_is_left_to_llama_cpp_is_settled_by_the_load(models: Path, configure: Configure) -> None:
    """The processor can do it. A recurrent model has no attention; a tokenizer no context."""
    cases: list[tuple[Kind, dict[str, Any]]] = [("dense", {}), ("recurrent", {}), ("window", {"vocab_only": True})]
    used = {}
    for kind, options in cases:
        backend = LlamaBackend("tiny", configure(tiny_gguf(kind, models), model_opts=options))
        used[kind] = backend.load(lambda _: True).flash_attn
        backend.close()
    assert used == {"dense": True, "recurrent": False, "window": False}


@pytest.mark.parametrize(
    ("lines", "asked", "flash", "transposed"),
    [
        (["llama_context: flash_attn            = auto", "resolve: Flash Attention enabled"], "auto", True, False),
        (["flash_attn            = auto", "Flash Attention not supported, set to disabled"], "auto", False, False),
        (["flash_attn            = disabled"], True, False, True),  # some architectures are forced to go without
        (["flash_attn            = disabled"], False, False, True),
        (["flash_attn            = enabled"], "auto", True, False),  # forced by quantised values
        (["flash_attn            = auto"], "auto", True, False),
        ([], "auto", True, False),
        ([], False, False, True),
    ],
)
def test_what_llama_cpp_said_of_flash_attention_counts(
    lines: list[str], asked: bool | Literal["auto"], flash: bool, transposed: bool
) -> None:
    """What it said last, and of the layout of values what it said first; what was asked for, where it said nothing."""
    assert attention_of(lines, asked) == (flash, transposed)


def test_quantised_values_without_flash_attention_are_refused_with_the_reason(
    models: Path, configure: Configure
) -> None:
    """The context is what fails, after the weights are in; both are freed."""
    backend = LlamaBackend("tiny", configure(tiny_gguf("dense", models), type_v="q8_0", flash_attn=False))
    with pytest.raises(ModelLoadError, match="flash_attn"):
        backend.load(lambda _: True)
    with pytest.raises(ModelNotLoaded):
        backend.vocabulary.token_bytes(1, special=False)


def test_a_tokenizer_only_model_says_that_it_cannot_generate(models: Path, configure: Configure) -> None:
    """Until it is closed: then it is not there at all."""
    backend = loaded(configure(tiny_gguf("dense", models), model_opts={"vocab_only": True}))
    with pytest.raises(TokenizerOnly):
        backend.decode([Slice(0, 0, PROMPT, True)])
    with pytest.raises(TokenizerOnly):
        backend.sampler(GREEDY, [])
    backend.close()
    with pytest.raises(ModelNotLoaded):
        backend.decode([Slice(0, 0, PROMPT, True)])


# --- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slices",
    [
        [],
        [Slice(0, 0, [], True)],
        [Slice(0, 0, [1] * 513, True)],
        [Slice(0, 0, [1] * 500, False), Slice(1, 0, [1] * 13, True)],
        [Slice(4, 0, [1], True)],
        [Slice(-1, 0, [1], True)],
        [Slice(0, 0, [1 << 20], True)],
        [Slice(0, 0, [-1], True)],
        [Slice(0, -1, [1], True)],
    ],
    ids=["none", "empty", "too-long", "too-many", "no-such-sequence", "below-0", "no-such-token", "-1", "position"],
)
def test_a_decode_that_makes_no_sense_is_a_failure_and_not_a_crash(dense: LlamaBackend, slices: list[Slice]) -> None:
    """Some of these end the process when llama.cpp sees them."""
    with pytest.raises(BackendFailure):
        dense.decode(slices)


def test_a_gap_in_a_sequence_is_a_failure(dense: LlamaBackend) -> None:
    """A token must follow the last one that the sequence holds."""
    dense.decode([Slice(0, 0, PROMPT, True)])
    with pytest.raises(BackendFailure, match="llama_decode"):
        dense.decode([Slice(0, len(PROMPT) + 5, [1], True)])


@pytest.mark.parametrize("index", [-1, 0, 2])
def test_a_slice_without_logits_cannot_be_sampled(dense: LlamaBackend, index: int) -> None:
    """Neither one that asked for none, nor one that is not there."""
    dense.decode([Slice(0, 0, [1, 2], False), Slice(1, 0, [1, 2], True)])
    with pytest.raises(BackendFailure):
        dense.sampler(GREEDY, []).sample(index)


def test_logits_of_a_decode_that_did_not_happen_are_gone(dense: LlamaBackend) -> None:
    """After an aborted decode nothing can be drawn from the one before."""
    sampler = dense.sampler(GREEDY, [])
    dense.decode([Slice(0, 0, PROMPT, True)])
    sampler.sample(0)
    dense.abort(True)
    dense.decode([Slice(0, len(PROMPT), [1], True)])
    with pytest.raises(BackendFailure):
        sampler.sample(0)


@pytest.mark.parametrize("token", [0, 100, -1])
@pytest.mark.parametrize(
    "sampling", [Sampling(), GREEDY, Sampling(grammar=regex(".*"))], ids=["hot", "greedy", "grammar"]
)
def test_logits_that_are_not_numbers_fail_the_request(dense: LlamaBackend, sampling: Sampling, token: int) -> None:
    """llama.cpp would sort them and read where nothing is."""
    dense.decode([Slice(0, 0, PROMPT, True)])
    assert dense._context is not None
    rows, [row] = dense._context.rows(0, dense.vocabulary.n_vocab)
    rows.logits[row, token] = float("nan")
    with pytest.raises(SamplerFailed, match="not a number"):
        dense.sampler(sampling, []).sample(0)


def test_the_rows_of_a_decode_are_those_of_its_slices(dense: LlamaBackend) -> None:
    """Several slices, not all with logits: each row is what llama.cpp gives for the slice's last token."""
    dense.decode([Slice(0, 0, PROMPT, True), Slice(1, 0, PROMPT[:3], False), Slice(2, 0, PROMPT[:5], True)])
    assert dense._context is not None
    assert dense._library is not None
    n_vocab = dense.vocabulary.n_vocab
    for index, in_batch in ((0, len(PROMPT) - 1), (2, len(PROMPT) + 3 + 5 - 1)):
        rows, [row] = dense._context.rows(index, n_vocab)
        said = dense._library.c.llama_get_logits_ith(dense._context.handle, in_batch)[:n_vocab]
        assert rows.logits[row].tolist() == said
        assert dense.logits(index) == rows.logits[row].tobytes()


def test_a_sampler_outlives_its_backend_without_harm(models: Path, configure: Configure) -> None:
    """Closing the backend closes the samplers; using or closing one afterwards touches nothing."""
    backend = loaded(configure(tiny_gguf("dense", models)))
    backend.decode([Slice(0, 0, PROMPT, True)])
    samplers = [backend.sampler(Sampling(grammar=grammar), []) for grammar in (None, regex(".*"))]
    backend.close()
    for sampler in samplers:
        with pytest.raises(SamplerFailed):
            sampler.sample(0)
        sampler.close()


# --- the sliding window --------------------------------------------------------------------------------------


def test_a_window_can_be_cut_back_as_far_as_its_cells_are_kept(models: Path, configure: Configure) -> None:
    """Beyond that llama.cpp would cut and compute on without what the window should show; we refuse."""
    backend = loaded(configure(tiny_gguf("window", models), n_ctx=1024, n_seq_max=1))
    # Cells out of the window are forgotten when their room is needed; there are 256 at least.
    tokens = [7 * i % 250 for i in range(512)]
    backend.decode([Slice(0, 0, tokens, True)])
    first, last = backend.positions(0)
    assert (first > 0, last) == (True, len(tokens) - 1)
    assert not backend.remove(0, first + WINDOW - 2, -1)
    assert backend.positions(0) == (first, last)
    assert backend.remove(0, first + WINDOW - 1, -1)
    assert backend.positions(0)[1] == first + WINDOW - 2
    backend.close()


def test_a_full_size_window_cache_forgets_nothing(models: Path, configure: Configure) -> None:
    """With `swa_full` it can be cut back anywhere."""
    backend = loaded(configure(tiny_gguf("window", models), swa_full=True))
    backend.decode([Slice(0, 0, [7 * i % 250 for i in range(4 * WINDOW)], True)])
    assert backend.remove(0, 3, -1)
    assert backend.positions(0) == (0, 2)
    backend.close()


# --- stopping ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_decode_is_stopped_from_another_thread(models: Path, configure: Configure) -> None:
    """What is left are whole micro-batches, and the sequence can continue from there."""
    backend = loaded(configure(tiny_gguf("dense", models), n_ctx=16384, n_batch=16384))
    tokens = [7 * i % 250 for i in range(16000)]
    thread = threading.Thread(target=backend.abort, args=(True,))
    thread.start()
    assert backend.decode([Slice(0, 0, tokens, True)]) is DecodeStatus.ABORTED
    thread.join()
    backend.abort(False)
    held = backend.positions(0)[1] + 1
    assert held % 64 == 0
    assert held < len(tokens)
    assert backend.decode([Slice(0, held, tokens[held : held + 100], True)]) is DecodeStatus.DONE
    backend.close()


def test_an_abort_before_the_load_is_remembered(models: Path, configure: Configure) -> None:
    """The flag belongs to the backend, not to the context."""
    backend = LlamaBackend("tiny", configure(tiny_gguf("dense", models)))
    backend.abort(True)
    backend.load(lambda _: True)
    assert backend.decode([Slice(0, 0, PROMPT, True)]) is DecodeStatus.ABORTED
    backend.close()


def test_closing_waits_for_calls_that_tokenize(models: Path, configure: Configure) -> None:
    """Calls in other threads end well or with `ModelNotLoaded`; none meets freed memory."""
    backend = loaded(configure(tiny_gguf("dense", models)))
    errors: list[BaseException] = []
    began = threading.Barrier(3)

    def work() -> None:
        began.wait()
        try:
            while True:
                tokens = backend.vocabulary.tokenize("some text " * 500, add_special=True, parse_special=True)
                backend.vocabulary.detokenize(tokens, special=True)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    began.wait()
    backend.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [ModelNotLoaded, ModelNotLoaded]


# --- a real model ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.real_model
def test_a_real_model_answers_a_question(smollm2: Path, configure: Configure) -> None:
    """The text makes sense, and ends by itself."""
    backend = LlamaBackend("smollm2", configure(smollm2, n_threads=2, n_threads_batch=2))
    facts = backend.load(lambda _: True)
    words = backend.vocabulary
    assert facts.description == "llama 135M Q4_1"
    assert (facts.bos_token, facts.eos_token, facts.memory, facts.n_swa) == ("<|im_start|>", "<|im_end|>", "full", 0)
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt = words.tokenize(question, add_special=True, parse_special=True)
    sampler, reply, position = backend.sampler(GREEDY, prompt), list[int](), len(prompt)
    backend.decode([Slice(0, 0, prompt, True)])
    while not words.is_end(token := sampler.sample(0)):
        reply.append(token)
        backend.decode([Slice(0, position, (token,), True)])
        position += 1
    assert "Paris" in words.detokenize(reply, special=False)
    backend.close()


def test_weights_that_were_freed_are_not_lent(models: Path, configure: Any) -> None:
    """The borrower's load says so, and nothing native is touched."""
    lender, borrower = (LlamaBackend("tiny", configure(tiny_gguf("dense", models))) for _ in range(2))
    lender.load(lambda _: True)
    borrower.use_weights_of(lender)
    lender.close()
    with pytest.raises(ModelNotLoaded):
        borrower.load(lambda _: True)
