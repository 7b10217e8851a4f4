"""Tiny GGUF files with random weights, one for each kind of memory that a model can have.

`tiny_gguf("dense", directory)` writes once for a directory and gives the path; the same kind has the same
bytes everywhere. Width 64, few layers, a vocabulary of 256 bytes plus some merges and control tokens, and a
ChatML template: a load takes milliseconds and a decode a fraction of one. `split_gguf` writes a model in several
files, `broken_gguf` the files that must be refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from gguf import GGUFWriter

Kind = Literal["dense", "window", "recurrent", "hybrid"]
Broken = Literal[
    "wrong_magic", "empty", "cut_in_magic", "cut_in_header", "cut_in_weights", "unknown_architecture", "directory"
]

KINDS: tuple[Kind, ...] = get_args(Kind)
BROKEN: tuple[Broken, ...] = get_args(Broken)

ARCHITECTURES: dict[Kind, str] = {"dense": "llama", "window": "gemma3", "recurrent": "mamba", "hybrid": "lfm2"}
WIDTH, FEED_FORWARD, HEADS, KV_HEADS = 64, 128, 2, 1
HEAD = 32  # a block of the quantised KV types
LAYERS: dict[Kind, int] = {"dense": 2, "window": 4, "recurrent": 2, "hybrid": 4}
CONTEXT = 4096
WINDOW = 64  # positions that the window model's layers look back
HYBRID_KV_HEADS = [0, 1, 0, 1]  # layers without any are convolutions
SSM_INNER, SSM_STATE, SSM_CONV, SSM_RANK = 2 * WIDTH, 8, 4, 4  # llama.cpp wants twice the width inside

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = (" the", " and", "ing", "user", "assistant", "é", "日")
CHAT_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>tools\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | default('') }}"
    "{% for call in message['tool_calls'] %}"
    "{{ '<tool_call>\n' + (call['function'] or call) | tojson + '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Shape = tuple[int, ...]


def tiny_gguf(kind: Kind, directory: Path, architecture: str | None = None) -> Path:
    """Path of the tiny model of this kind; `architecture` lies about what it is."""
    path = directory / f"{architecture or kind}.gguf"
    if not path.exists():
        write_to(GGUFWriter(path, architecture or ARCHITECTURES[kind]), kind)
    return path


def split_gguf(kind: Kind, directory: Path, *, metadata_apart: bool = False, other_end: bool = False) -> list[Path]:
    """Paths of the parts of the same model in several files.

    With `metadata_apart` the first has no tensors; with `other_end` all but the first have other weights.
    """
    directory.mkdir(exist_ok=True)
    path = directory / f"{kind}.gguf"
    per_part = len(list(_tensors(kind))) // 3 + 1
    writer = GGUFWriter(path, ARCHITECTURES[kind], split_max_tensors=per_part, small_first_shard=metadata_apart)
    write_to(writer, kind, other_end=other_end)
    return sorted(directory.glob(f"{kind}-*-of-*.gguf"))


def broken_gguf(how: Broken, directory: Path) -> Path:
    """Path of a file that is no usable model."""
    path = directory / f"{how}.gguf"
    if how == "directory":
        path.mkdir(exist_ok=True)
    elif how == "unknown_architecture":
        return tiny_gguf("dense", directory, "nonesuch")
    else:
        whole = tiny_gguf("dense", directory).read_bytes()
        parts = {
            "wrong_magic": b"GGML" + whole[4:],
            "empty": b"",
            "cut_in_magic": whole[:10],
            "cut_in_header": whole[:2000],
            "cut_in_weights": whole[:-1000],
        }
        path.write_bytes(parts[how])
    return path


def write_to(writer: GGUFWriter, kind: Kind, *, other_end: bool = False) -> None:
    """Write the model of a kind, and close the writer."""
    writer.add_name(f"tiny {kind}")
    writer.add_file_type(0)  # all f32
    _write_settings(writer, kind)
    write_vocabulary(writer, kind)
    random = np.random.default_rng(KINDS.index(kind))
    for name, shape in _tensors(kind):
        if name.endswith("norm.weight"):
            weights = np.ones(shape)
        elif name.endswith("ssm_a"):
            weights = -np.abs(random.standard_normal(shape)) - 0.1  # a state decays
        else:
            # Logits far enough apart that rounding never changes which token is the likeliest.
            weights = random.standard_normal(shape) * (1.0 if name == "token_embd.weight" else 0.25)
        if other_end and name.startswith(f"blk.{LAYERS[kind] - 1}."):
            weights = -weights
        writer.add_tensor(name, weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(writer: GGUFWriter, kind: Kind) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS[kind])
    writer.add_layer_norm_rms_eps(1e-5)
    if kind == "recurrent":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(SSM_CONV)
        writer.add_ssm_inner_size(SSM_INNER)
        writer.add_ssm_state_size(SSM_STATE)
        writer.add_ssm_time_step_rank(SSM_RANK)
        return
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HYBRID_KV_HEADS if kind == "hybrid" else KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    if kind == "window":
        writer.add_sliding_window(WINDOW)
        writer.add_sliding_window_pattern(2)  # every other layer sees everything
        writer.add_key_length(HEAD)
        writer.add_value_length(HEAD)
    if kind == "hybrid":
        writer.add_shortconv_l_cache(3)


def write_vocabulary(writer: GGUFWriter, kind: Kind) -> None:
    """The tokens of a kind, and the template."""
    if kind == "recurrent":
        _write_pieces(writer)
    else:
        _write_merges(writer)
    writer.add_chat_template(CHAT_TEMPLATE)


def _write_pieces(writer: GGUFWriter) -> None:
    """SentencePiece: a space goes before a text, characters that are no piece fall back to bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁"] + [chr(letter) for letter in range(ord("a"), ord("a") + n_vocab() - len(pieces) - 1 - len(CONTROL))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*pieces, *CONTROL])
    writer.add_token_scores([-float(i) for i in range(n_vocab())])
    # 2 unknown, 6 byte, 1 normal, 3 control
    writer.add_token_types([2] + [6] * 256 + [1] * (len(pieces) - 257) + [3] * len(CONTROL))
    writer.add_bos_token_id(len(pieces) + 1)
    writer.add_eos_token_id(len(pieces) + 2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(True)


def _write_merges(writer: GGUFWriter) -> None:
    """Byte-level BPE: 256 bytes, whatever the merges for `WORDS` make, then the control tokens."""
    tokens = write_merges_for(writer, WORDS)
    writer.add_token_list([*tokens, *CONTROL])
    writer.add_token_types([1] * len(tokens) + [3] * len(CONTROL))  # 1 normal, 3 control
    writer.add_bos_token_id(len(tokens) + 1)
    writer.add_eos_token_id(len(tokens) + 2)
    writer.add_add_bos_token(False)


def write_merges_for(writer: GGUFWriter, words: Iterable[str]) -> list[str]:
    """The tokenizer whose merges make these words, letter after letter; its tokens: 256 bytes, then the merged ones."""
    letters = byte_letters()
    tokens, merges = list(letters), list[str]()
    for word in words:
        left = ""
        for byte in word.encode():
            if left and left + letters[byte] not in tokens:
                merges.append(f"{left} {letters[byte]}")
                tokens.append(left + letters[byte])
            left += letters[byte]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_merges(merges)
    return tokens


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE: itself, or one from U+0100 on if it is not printable."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


def n_vocab() -> int:
    merged = {word.encode()[:end] for word in WORDS for end in range(2, len(word.encode()) + 1)}
    return 256 + len(merged) + len(CONTROL)


def _tensors(kind: Kind) -> Iterator[tuple[str, Shape]]:
    """Names and shapes, outermost dimension first."""
    yield "token_embd.weight", (n_vocab(), WIDTH)
    yield ("token_embd_norm.weight" if kind == "hybrid" else "output_norm.weight"), (WIDTH,)
    yield "output.weight", (n_vocab(), WIDTH)
    for layer in range(LAYERS[kind]):
        for name, shape in _layer(kind, layer):
            yield f"blk.{layer}.{name}", shape


def _layer(kind: Kind, layer: int) -> Iterator[tuple[str, Shape]]:
    yield "attn_norm.weight", (WIDTH,)
    if kind == "recurrent":
        yield "ssm_in.weight", (2 * SSM_INNER, WIDTH)
        yield "ssm_conv1d.weight", (SSM_INNER, SSM_CONV)
        yield "ssm_conv1d.bias", (SSM_INNER,)
        yield "ssm_x.weight", (SSM_RANK + 2 * SSM_STATE, SSM_INNER)
        yield "ssm_dt.weight", (SSM_INNER, SSM_RANK)
        yield "ssm_dt.bias", (SSM_INNER,)
        yield "ssm_a", (SSM_INNER, SSM_STATE)
        yield "ssm_d", (SSM_INNER,)
        yield "ssm_out.weight", (WIDTH, SSM_INNER)
        return
    if kind == "hybrid" and not HYBRID_KV_HEADS[layer]:
        yield "shortconv.conv.weight", (WIDTH, 3)
        yield "shortconv.in_proj.weight", (3 * WIDTH, WIDTH)
        yield "shortconv.out_proj.weight", (WIDTH, WIDTH)
    else:
        yield "attn_q.weight", (HEADS * HEAD, WIDTH)
        yield "attn_k.weight", (KV_HEADS * HEAD, WIDTH)
        yield "attn_v.weight", (KV_HEADS * HEAD, WIDTH)
        yield "attn_output.weight", (WIDTH, HEADS * HEAD)
        if kind in ("window", "hybrid"):
            yield "attn_q_norm.weight", (HEAD,)
            yield "attn_k_norm.weight", (HEAD,)
    if kind == "window":
        yield "post_attention_norm.weight", (WIDTH,)
        yield "post_ffw_norm.weight", (WIDTH,)
    yield "ffn_norm.weight", (WIDTH,)
    yield "ffn_gate.weight", (FEED_FORWARD, WIDTH)
    yield "ffn_up.weight", (FEED_FORWARD, WIDTH)
    yield "ffn_down.weight", (WIDTH, FEED_FORWARD)
