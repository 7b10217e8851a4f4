"""The task of loading a model file for the first time: its vocabulary, and the graph of a context over it, no weights.

Each stage is said before it begins. What llama.cpp refuses in order is no business of a child: its parent is told so
there too, with the same reason.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from erllama_py.engine.children.bindings import fill, open_bindings, without_devices
from erllama_py.engine.children.codes import DONE, REFUSED
from erllama_py.engine.children.entry import say

# Texts of every way through a tokenizer: none, words, numbers, white space, other scripts, what is no whole character
# in a vocabulary of bytes, control characters, and what control tokens look like.
TEXTS = (
    "", "a", "\x02", " Hello, World's  end!\n\n\t12345 3.14",
    "日本語 é ☂ 👩‍👩‍👧 Ω ß \u200b\u00a0\ufeff", "\x01\x7f\u0378\U0010fffd",
    "<|im_start|><s></s>[INST]<unk>", "x" * 300,
)  # fmt: skip


def run(given: dict[str, Any]) -> int:
    """`given`: `folder` of the bindings, `path`, `vocab_only`, and `context`: the fields of a context's parameters,
    None where none is to be made."""
    say("stage library")
    c = open_bindings(given["folder"])
    say("stage load")
    devices = without_devices()
    params = fill(
        c.llama_model_default_params(), {"no_alloc": not given["vocab_only"], "vocab_only": given["vocab_only"]}
    )
    params.load_mode, params.n_gpu_layers = 0, 0  # mapped files cannot be laid out without memory
    params.devices = ctypes.addressof(devices)
    model = c.llama_model_load_from_file(os.fsencode(given["path"]), params)
    if not model:
        return REFUSED
    say("stage vocabulary")
    read_texts(c, c.llama_model_get_vocab(model))
    if given["context"] is None or c.llama_model_has_encoder(model):
        return DONE
    say("stage graph")
    return DONE if c.llama_init_from_model(model, fill(c.llama_context_default_params(), given["context"])) else REFUSED


def read_texts(c: Any, vocabulary: Any) -> None:
    """Tokenize each text in each way, and turn its tokens into text again."""
    tokens, piece = (c.llama_token * 4096)(), ctypes.create_string_buffer(512)
    for text in TEXTS:
        data = text.encode()
        for add_special in (False, True):
            for parse_special in (False, True):
                count = c.llama_tokenize(vocabulary, data, len(data), tokens, len(tokens), add_special, parse_special)
                for token in tokens[: max(0, count)]:
                    c.llama_token_to_piece(vocabulary, token, piece, len(piece), 0, parse_special)
