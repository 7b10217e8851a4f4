"""What options say of tokens, by the vocabulary of the model: checked and made token ids before there is a request."""

from __future__ import annotations

import math

import msgspec

from erllama_py.engine.backend import Vocabulary
from erllama_py.errors import InvalidOption
from erllama_py.options.request import RequestOptions
from erllama_py.options.sampling import MAX_BIAS, MAX_BIASES


def names_tokens(options: RequestOptions) -> bool:
    """Whether the vocabulary has to be asked."""
    return asks_much(options) or bool(options.stop_token_ids) or bool(options.stop_sequences)


def asks_much(options: RequestOptions) -> bool:
    """Whether that takes more than some microseconds, however short the texts are."""
    return bool(options.logit_bias) or options.ignore_eos or options.min_tokens > 0


def by_id(options: RequestOptions, vocabulary: Vocabulary) -> RequestOptions:
    """The options with every token by its id. Raises `InvalidOption`.

    Where the tokens that end a reply matter, the vocabulary knows them after this: the engine's thread never looks for
    them.
    """
    if options.ignore_eos or options.min_tokens:
        _ = vocabulary.ends
    biases: dict[int, float] = {}
    for token, bias in options.logit_bias.items():
        for one in _ids(token, vocabulary):
            biases[one] = biases.get(one, 0.0) + bias
    if len(biases) > MAX_BIASES:
        raise InvalidOption("logit_bias", f"expected at most {MAX_BIASES} tokens, got {len(biases)}")
    for one, bias in biases.items():
        if bias != -math.inf and abs(bias) > MAX_BIAS:
            raise InvalidOption("logit_bias", f"expected at most {MAX_BIAS:g} either way, got {bias:g} for token {one}")
    for one in options.stop_token_ids:
        _check("stop_token_ids", one, vocabulary)
    named = (_control_token(stop, vocabulary) for stop in options.stop_sequences)
    stops = (*options.stop_token_ids, *(one for one in named if one is not None))
    return msgspec.structs.replace(options, logit_bias=biases, stop_token_ids=stops)


def _control_token(text: str, vocabulary: Vocabulary) -> int | None:
    """The control token that is written so, if there is one; its name never comes up in a reply's text."""
    tokens = vocabulary.tokenize(text, add_special=False, parse_special=True)
    hidden = len(tokens) == 1 and not vocabulary.token_bytes(tokens[0], special=False)
    return tokens[0] if hidden and vocabulary.token_bytes(tokens[0], special=True) == text.encode() else None


def _check(option: str, token: int, vocabulary: Vocabulary) -> None:
    if not 0 <= token < vocabulary.n_vocab:
        raise InvalidOption(option, f"token {token} is not in the vocabulary of {vocabulary.n_vocab} tokens")


def _ids(token: int | str, vocabulary: Vocabulary) -> list[int]:
    if isinstance(token, str):
        # A control token may be named, as the application wrote it: no text of a user gets here.
        ids = vocabulary.tokenize(token, add_special=False, parse_special=True)
        if not ids:
            raise InvalidOption("logit_bias", f"the text {token!r} has no tokens in this model's vocabulary")
        return ids
    _check("logit_bias", token, vocabulary)
    return [token]
