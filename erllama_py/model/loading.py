"""What a load settles before any weights are read: the file's facts, its fingerprint, whether it fits.

Only `prepare_off_loop` acts, and what it calls: it reads the file on a worker thread. All else computes.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path

import msgspec

from erllama_py.actors import Threads
from erllama_py.cache.keys import ctx_params_hash, reproducible_hash
from erllama_py.cpus import ThreadChoice, choose_threads, read_allowance
from erllama_py.engine.backend import FileFacts, ModelFacts, ModelSource
from erllama_py.engine.jobs import MOST_TOKENS
from erllama_py.errors import InsufficientMemory, InvalidOption, ModelLoadError, ModelNotLoaded, QuantMismatch
from erllama_py.memory import available_memory
from erllama_py.model.board import ModelBoard
from erllama_py.model.companion import companion_threads
from erllama_py.model.fingerprinting import find_fingerprint
from erllama_py.model.loaded import Prepared
from erllama_py.options.model import (
    DEFAULT_CELLS,
    ContextOpts,
    ModelConfig,
    with_cells,
    with_trained_context,
    without_secrets,
)
from erllama_py.results import LoadProgress, ModelInfo

# Bytes a KV element takes, by type: f16 is two; a q8_0 block stores 32 elements in 34 bytes, and so on
# (block sizes: ggml's block_q4_0, block_q5_0, block_q5_1, block_q8_0).
KV_ELEMENT_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_0": 18 / 32,
}

# Of a context whose size nobody gave: as `erllama serve` does it.
LEAST_CELLS = 2048  # a conversation of a few turns
MEMORY_SHARE = 4  # of what is free beside the weights: the page cache, saved rows and others need the rest
LEAST_ROOM = 256 << 20

BOOK_BYTES = 48  # what llama.cpp notes of each cell, in this machine's memory: position, coordinates, its sequences


def cell_bytes(facts: FileFacts, context: ContextOpts) -> int:
    """Bytes of all KV cells: a low estimate.

    `kv_bytes_per_token` is in f16, half of it keys and half of it values. Which layers of a sliding-window model attend
    to everything is not in the file, so all count with the window alone.
    """
    windowed = facts.sliding_window > 0 and not context.swa_full
    cells = min(context.cells, facts.sliding_window) if windowed else context.cells
    return int(cells * _bytes_per_cell(facts, context))


def range_bytes(facts: FileFacts, config: ModelConfig) -> int:
    """Bytes of a long range of cells as it is copied out to be saved: a high estimate; 0 where nothing is saved.

    Beside the cells there are their positions and each layer's head, some 0.2 %; a sixteenth is plenty.
    """
    if config.policy.min_tokens is None or config.model_opts.vocab_only or facts.embeds_only:
        return 0
    cells = min(config.context_opts.cells, MOST_TOKENS)
    return int(cells * _bytes_per_cell(facts, config.context_opts) * 17 / 16)


def _bytes_per_cell(facts: FileFacts, context: ContextOpts) -> float:
    per_token = facts.kv_bytes_per_token / 2
    keys = per_token * KV_ELEMENT_BYTES[context.type_k] / KV_ELEMENT_BYTES["f16"]
    values = per_token * KV_ELEMENT_BYTES[context.type_v] / KV_ELEMENT_BYTES["f16"]
    return keys + values


def resident_bytes(config: ModelConfig, facts: FileFacts) -> int:
    """Bytes that a load takes of this machine's memory for good: a low estimate, as loads are refused by it.

    Mapped weights can be read again from the file, and weights and cells on a GPU lie elsewhere.
    """
    if config.model_opts.vocab_only:
        return facts.metadata_size
    return _resident_weights(config, facts) + _resident_cells(config, facts)


def _resident_weights(config: ModelConfig, facts: FileFacts) -> int:
    return 0 if config.model_opts.use_mmap or _offloads(config, facts) else facts.file_size


def _resident_cells(config: ModelConfig, facts: FileFacts) -> int:
    without = facts.embeds_only or (_offloads(config, facts) and config.context_opts.offload_kqv)
    if without or not facts.kv_bytes_per_token:
        return 0
    return cell_bytes(facts, config.context_opts) + config.context_opts.cells * BOOK_BYTES


def _offloads(config: ModelConfig, facts: FileFacts) -> bool:
    return config.model_opts.n_gpu_layers != 0 and facts.offloads


def missed_gpu(config: ModelConfig, facts: FileFacts) -> str | None:
    """What to say of a model that is to be on a GPU where there is none. Such a configuration is no error: it may be
    shared by machines with one and without."""
    layers = config.model_opts.n_gpu_layers
    if not layers or facts.offloads or config.backend != "llama" or config.model_opts.vocab_only:
        return None
    return f"n_gpu_layers is {layers}, but llama.cpp finds no GPU, or was built without: the CPU computes all layers"


def check_file(config: ModelConfig, facts: FileFacts, available: int) -> None:
    """Compare what was given with what the file says and with the memory that is `available`, in bytes.

    Raises `QuantMismatch`, `InsufficientMemory`, `InvalidOption`.
    """
    if config.quant_type is not None and config.quant_type != facts.quant_type:
        raise QuantMismatch("quant_type", config.quant_type, facts.quant_type)
    if config.quant_bits is not None and config.quant_bits != facts.quant_bits:
        raise QuantMismatch("quant_bits", str(config.quant_bits), str(facts.quant_bits))
    if config.context_opts.sequences > config.context_opts.cells:
        raise InvalidOption("context_opts.n_seq_max", "more sequences than the context has cells")
    _check_room(config, resident_bytes(config, facts), available)


def _check_room(config: ModelConfig, needed: int, available: int) -> None:
    path, most = str(config.model_path or "a model"), config.process_opts.memory_bytes
    if most is not None and needed > most:
        problem = f"it needs at least {needed >> 20} MiB of memory and its process may take {most >> 20} MiB"
        raise InsufficientMemory(path, problem, needed, most)
    if needed > available:
        problem = f"it needs at least {needed >> 20} MiB of memory and {available >> 20} MiB are available"
        raise InsufficientMemory(path, problem, needed, available)


def check_embedder_room(config: ModelConfig, facts: FileFacts, tokens: int = 1) -> None:
    """Whether there is memory for the cells of a context for embeddings of inputs of so many tokens: for an encoder it
    needs none. Raises `InsufficientMemory`."""
    context = msgspec.structs.replace(config.context_opts, n_ctx=min(tokens, config.context_opts.cells))
    needed = _resident_cells(msgspec.structs.replace(config, context_opts=context), facts)
    _check_room(config, needed, available_memory())


def settled(config: ModelConfig, facts: FileFacts, available: int) -> ModelConfig:
    """The configuration with an `n_ctx`: the one that is given, what the file says (0), or the default.

    The default is `DEFAULT_CELLS`, or what the model was trained with if that is less. It never takes from a small
    machine, or from a process with a limit, what a model needs: it is halved, down to `LEAST_CELLS`, until its cells
    take no more than a part of the memory that is `available` beside the weights, in bytes. Raises `InvalidOption`.
    """
    if config.context_opts.n_ctx is not None:
        return with_trained_context(config, facts.n_ctx_train)
    room = max(LEAST_ROOM, (available - facts.file_size) // MEMORY_SHARE)
    if (most := config.process_opts.memory_bytes) is not None:
        room = min(room, (most - _resident_weights(config, facts)) // MEMORY_SHARE)
    cells = max(min(DEFAULT_CELLS, facts.n_ctx_train or LEAST_CELLS), config.context_opts.sequences)
    while cells // 2 >= LEAST_CELLS and _resident_cells(with_cells(config, cells), facts) > room:
        cells //= 2
    return with_cells(config, cells)


async def prepare_off_loop(backend: ModelSource, board: ModelBoard, remember: Path, threads: Threads) -> Prepared:
    """Inspect, check and fingerprint the model file on one of `threads`, reporting bytes hashed to the board, which
    gets the configuration with the size of its context.

    Raises the errors of `Backend.inspect`, `check_file` and `find_fingerprint`.
    """
    loop, wanted = asyncio.get_running_loop(), True
    available = available_memory()

    def progress(done: int, total: int) -> bool:
        loop.call_soon_threadsafe(board.progress, LoadProgress("hash", done, total))
        return wanted

    def inspect() -> tuple[FileFacts, ModelConfig, ThreadChoice, str]:
        facts = backend.inspect()
        config = settled(board.config, facts, available)
        check_file(config, facts, available)
        backend.settle(config)
        own = config.process_opts.cpus
        return facts, config, *choose_threads(config.context_opts, read_allowance(own=own), own)

    try:
        facts, board.config, chosen, reason = await threads.abandon(inspect)
        fingerprint = await find_fingerprint(board.config, facts, remember, progress, threads)
        return Prepared(facts=facts, fingerprint=fingerprint, threads=chosen, threads_reason=reason)
    except asyncio.CancelledError:
        backend.abort(True)  # ends a child in which the file is being tried
        raise
    finally:
        wanted = False  # a worker that was abandoned by a cancelled load stops at its next block


def check_backend(backend: object, board: ModelBoard) -> None:
    """Raises `ModelLoadError`: an application's factory may give anything. And `InvalidOption`, for one that is to run
    in a process of its own: it cannot be sent there."""
    remote = hasattr(backend, "begin_child")
    if (remote or hasattr(backend, "load")) and hasattr(backend, "vocabulary"):
        if board.config.isolation == "process" and not remote:
            raise InvalidOption("isolation", "a backend of an application's factory runs on a thread: use 'thread'")
        return
    got = type(backend).__name__
    if inspect.iscoroutine(backend):
        backend.close()
        got = "coroutine: it is an async function, and a plain one is expected"
    problem = f"the backend factory gave a {got}; a Backend is expected, see erllama_py.testing"
    raise ModelLoadError(f"the model {board.model_id!r}", problem)


def borrow(backend: ModelSource, board: ModelBoard) -> Prepared:
    """What the load of a companion need not find out: its model has, and lends its weights to `backend`.

    Raises `ModelNotLoaded` where the model is up no more, and `InsufficientMemory`.
    """
    lent = None if board.lender is None else board.lender.lent
    if lent is None:
        raise ModelNotLoaded(board.model_id)
    backend.use_weights_of(lent.backend)
    prepared = lent.prepared
    _check_room(board.config, _resident_cells(board.config, prepared.facts), available_memory())
    return msgspec.structs.replace(prepared, threads=companion_threads(board.config, prepared.threads))


def report_weights(board: ModelBoard, file_size: int) -> Callable[[float], None]:
    """What the engine thread's load reports to: fractions become bytes of the file."""
    return lambda done: board.progress(LoadProgress("weights", int(done * file_size), file_size))


def describe(board: ModelBoard, prepared: Prepared, facts: ModelFacts, load_seconds: float) -> ModelInfo:
    """Everything about a model that stays as it is while it is loaded."""
    config = board.config
    # All sequences share one cache, so each may grow to the whole context, and llama.cpp picks the factors for that.
    long_rope = 0 < prepared.facts.long_rope_above < facts.n_ctx
    params_hash = ctx_params_hash(
        config.context_opts, facts.build, flash_attn=facts.flash_attn, transposed=facts.transposed, long_rope=long_rope
    )
    params_hash = config.ctx_params_hash or params_hash
    if board.grid is not None:
        params_hash = reproducible_hash(params_hash, board.grid, prepared.threads)
    return ModelInfo(
        id=board.model_id, phase="idle", pending=0, backend=config.backend,
        model_path=None if config.model_path is None else str(config.model_path), description=facts.description,
        quant_type=prepared.facts.quant_type, quant_bits=prepared.facts.quant_bits, fingerprint=prepared.fingerprint,
        ctx_params_hash=params_hash, n_params=facts.n_params, size=facts.size_bytes,
        memory_estimate=facts.size_bytes + cell_bytes(prepared.facts, config.context_opts) * (facts.n_ctx > 0),
        context_size=config.context_opts.cells, n_ctx_train=facts.n_ctx_train, n_vocab=facts.n_vocab,
        n_seq_max=facts.n_seq_max, threads=prepared.threads.few, threads_used=prepared.threads.few,
        threads_reason=prepared.threads_reason,
        reproducible_threads=companion_threads(config, prepared.threads).few,
        load_seconds=load_seconds, restarts=board.restarts, config=without_secrets(config),
        can_generate=facts.n_ctx > 0, can_rank=prepared.facts.pooling == "rank", n_embd=facts.n_embd,
        pooling=None if prepared.facts.pooling == "rank" else prepared.facts.pooling or "mean",
    )  # fmt: skip
