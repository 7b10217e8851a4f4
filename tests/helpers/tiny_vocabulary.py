"""Vocabularies of llama.cpp without a model, with the control tokens of all families: BPE and SentencePiece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from gguf import GGUFWriter

from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.vocabulary import LlamaVocabulary
from helpers.plain_families import CONTROL, USER_DEFINED
from helpers.tiny_gguf import write_merges_for

Kind = Literal["bpe", "spm", "spm without space"]
Frame = tuple[bool, bool]  # whether the file asks for a begin token, and for an end token
KINDS: tuple[Kind, ...] = ("bpe", "spm", "spm without space")
NORMAL, UNKNOWN, IS_CONTROL, IS_USER_DEFINED, BYTE = 1, 2, 3, 4, 6
# Pairs that merge, also across what a template writes and what a user does.
MERGES = ("> ", "\n\n", "he", "ll", "hell", "hello", "us", "er", "user", "<|", "|>", "</", "[/", "\nh", " h")


@contextmanager
def tiny_vocabulary(
    kind: Kind, folder: Path, pre: str | None = None, *, asks_for: Frame = (False, False)
) -> Iterator[LlamaVocabulary]:
    """An open vocabulary; one of the kind `bpe` may split its words by the rules that are named `pre`."""
    path = folder / f"{kind.replace(' ', '-')}-{pre or 'usual'}-{asks_for[0]:d}{asks_for[1]:d}.gguf"
    if not path.exists():
        _write(path, kind, pre, asks_for)
    lib = library()
    parameters = lib.c.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.c.llama_model_load_from_file(str(path).encode(), parameters)
    vocabulary = LlamaVocabulary(kind)
    vocabulary.open(lib, model)
    try:
        yield vocabulary
    finally:
        vocabulary.close()
        lib.c.llama_model_free(model)


def _write(path: Path, kind: Kind, pre: str | None, asks_for: Frame) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens, types = _merges(writer) if kind == "bpe" else _pieces(writer, with_space=kind == "spm")
    if pre is not None:
        writer.kv_data[0].pop("tokenizer.ggml.pre")
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, *CONTROL, *USER_DEFINED])
    writer.add_token_types([*types, *[IS_CONTROL] * len(CONTROL), *[IS_USER_DEFINED] * len(USER_DEFINED)])
    writer.add_token_scores([-float(index) for index in range(len(tokens) + len(CONTROL) + len(USER_DEFINED))])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + 1)
    writer.add_add_bos_token(asks_for[0])
    writer.add_add_eos_token(asks_for[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _merges(writer: GGUFWriter) -> tuple[list[str], list[int]]:
    tokens = write_merges_for(writer, MERGES)
    return tokens, [NORMAL] * len(tokens)


def _pieces(writer: GGUFWriter, *, with_space: bool) -> tuple[list[str], list[int]]:
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁", *MERGES, *map(chr, range(0x21, 0x7F)), "▁he", "▁▁", "▁<", "▁["]
    words = list(dict.fromkeys(word.replace(" ", "▁") for word in words if "\n" not in word))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_add_space_prefix(with_space)
    return [*pieces, *words], [UNKNOWN, *[BYTE] * 256, *[NORMAL] * len(words)]
