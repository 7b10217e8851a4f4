"""What a GGUF file may say that ends the process in llama.cpp, in words. Pure.

Faults of two kinds. `decode_fault`: those that show in a decode, which no trial without weights can find; looked for in
each file. `load_fault`: those that show in a load, whose limits are this release's; the reason for a trial that went
wrong, and looked for where there is none. Sources: llama-model.cpp (`load_hparams`), llama-vocab.cpp, ggml-cpu.
"""

from __future__ import annotations

import re
from collections.abc import Container

import msgspec

MOST_LAYERS, MOST_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
# Multiplied by the number of sequences in 32 bits, this leaves room for 255; no model looks back further.
MOST_WINDOW = 1 << 24
_SCALINGS = {"none", "linear", "yarn", "longrope"}
_F32 = 0
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|[^x])", re.DOTALL)
_SIGNS = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_BYTES = [(f"<0x{byte:02X}>".encode(), bytes([byte])) for byte in range(256)]


class Stated(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says of what is looked at here; None and empty where it says nothing."""

    architecture: str
    layers: int | None = None
    experts: int = 0
    experts_used: tuple[int, ...] = ()
    expert_groups: int = 0
    groups_used: int = 0
    rope_scaling: str | None = None
    epsilons: dict[str, float] = {}
    window: int = 0
    tokenizer: str | None = None
    adds_bos: bool = False
    bos: int | None = None
    n_tokens: int = 0
    norms: dict[str, int] = {}  # ggml types of the tensors that activations are multiplied with, or that are added


def decode_fault(stated: Stated, *, on_cpu: bool) -> str | None:
    """What would end the process, or spoil a cache, in a decode; None where nothing is known. Pure."""
    for name, value in stated.epsilons.items():
        if not value >= 0:  # not a number, too
            return f"{name} is {value}, which no norm can be computed with"
    if stated.window > MOST_WINDOW:
        return f"a sliding window of {stated.window:,} tokens is more than the {MOST_WINDOW:,} that can be counted"
    for name, kind in stated.norms.items() if on_cpu else ():
        if kind != _F32:
            return f"the tensor {name!r} is not of the type f32, the only one that a CPU adds or multiplies with"
    return None


def load_fault(stated: Stated) -> str | None:
    """What would end the process in a load; None where nothing is known. Pure."""
    if stated.layers is not None and not 0 < stated.layers <= MOST_LAYERS:
        return f"block_count is {stated.layers:,}, and llama.cpp takes 1 to {MOST_LAYERS}"
    if stated.rope_scaling is not None and stated.rope_scaling not in _SCALINGS:
        return f"the rope scaling type {stated.rope_scaling!r} is not one of {', '.join(sorted(_SCALINGS))}"
    if stated.tokenizer in ("no_vocab", "none"):
        return f"it has no tokenizer ({stated.tokenizer!r})"
    needs_bos = stated.tokenizer == "t5" and stated.adds_bos
    if needs_bos and (stated.bos is None or not 0 <= stated.bos < stated.n_tokens):
        return "its tokenizer is to put a token before each text (add_bos_token), and no such token is named"
    return _expert_fault(stated)


def _expert_fault(stated: Stated) -> str | None:
    used = max(stated.experts_used, default=0)
    if stated.architecture.startswith("hunyuan") and stated.experts <= 1:
        return None  # llama.cpp takes it for none
    if stated.experts > MOST_EXPERTS:
        return f"expert_count is {stated.experts:,}, and llama.cpp takes up to {MOST_EXPERTS:,}"
    if used > stated.experts:
        return f"expert_used_count is {used:,}, and there are {stated.experts:,} experts"
    if stated.experts and not used:
        return f"none of its {stated.experts:,} experts is used (expert_used_count)"
    if stated.expert_groups and stated.expert_groups >= stated.experts:
        return f"{stated.expert_groups:,} groups of experts are not fewer than its {stated.experts:,} experts"
    if stated.expert_groups > 1:
        if stated.experts % stated.expert_groups:
            return f"{stated.experts:,} experts do not make {stated.expert_groups:,} groups of one size"
        if not 0 < stated.groups_used < stated.expert_groups:
            return f"expert_group_used_count is {stated.groups_used:,} of {stated.expert_groups:,} groups"
    return None


def vocabulary_fault(tokenizer: str | None, tokens: list[bytes]) -> str | None:
    """What is wrong with the tokens of a file; None where nothing is known. 0.1 s for 262,144 of them. Pure."""
    known: dict[bytes, int] = {}
    for number, token in enumerate(tokens):
        first = known.setdefault(token, number)
        if first != number and token:  # llama.cpp names those that are empty
            shown = token.decode("utf-8", "backslashreplace")
            return f"the tokens {first} and {number} are the same: {shown!r}"
    if tokenizer == "llama":
        return _fault_of_bytes(known)
    if tokenizer == "rwkv":
        return _fault_of_beginnings([unescaped(token) for token in tokens])
    return None


def _fault_of_bytes(known: Container[bytes]) -> str | None:
    lacking = [name for name, byte in _BYTES if name not in known and byte not in known]
    if not lacking:
        return None
    return (
        f"its tokenizer is SentencePiece's ('llama'), and its vocabulary has no token for {len(lacking)} of "
        f"256 bytes, {lacking[0].decode()} first: it may be that of another tokenizer"
    )


def _fault_of_beginnings(tokens: list[bytes]) -> str | None:
    """llama.cpp follows a token as far as a text does, and where none has ended by then, begins again, for ever."""
    lacking = {token[:1] for token in tokens if len(token) > 1} - set(tokens)
    if not lacking:
        return None
    return f"its tokenizer is RWKV's, and tokens begin with {len(lacking)} bytes that are none, {min(lacking)!r} first"


def unescaped(token: bytes) -> bytes:
    """The bytes that a token of RWKV's stands for, which the file has with escapes as llama.cpp reads them. Pure."""
    return _ESCAPE.sub(_meant, token)


def _meant(found: re.Match[bytes]) -> bytes:
    sign = found[1]
    return bytes([int(sign[1:], 16)]) if len(sign) == 3 else _SIGNS.get(sign, sign)
