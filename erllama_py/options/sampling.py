"""How the tokens of one request are drawn: the options of llama.cpp's sampler chain, under its own bounds.

They are a part of `RequestOptions` and go to the engine as they are.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from erllama_py.options.check import Amount, Options
from erllama_py.options.model import Positive

SamplerName = Literal[
    "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"
]  # fmt: skip
# llama.cpp's own order.
SAMPLERS: tuple[SamplerName, ...] = (
    "penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"
)  # fmt: skip

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Window = Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)]
MAX_BREAKER_BYTES = 40  # llama.cpp's own limit
MAX_BREAKERS = 16  # each is looked for in the whole vocabulary
Breaker = Annotated[str, Meta(min_length=1, max_length=MAX_BREAKER_BYTES)]
# Each draw looks at every biased token; at this many that takes about as long as all the rest of it.
MAX_BIASES = 1024
MAX_BIAS = 10_000.0  # far beyond any logit, and far from what 32 bits can hold after penalties and temperature
Biased = int | Annotated[str, Meta(min_length=1, max_length=200)]
MAX_STOP_TOKENS = 256  # as many as there are end tokens in the largest vocabularies, several times over


class Sampling(Options, frozen=True):
    """How the next token is drawn: `logit_bias`, the `samplers` in their order, then the draw with `seed`."""

    temperature: Annotated[float, Meta(ge=0.0)] = 0.8
    """Above 1.0 flattens, below sharpens the odds; 0.0 always takes the likeliest token."""
    dynatemp_range: Annotated[float, Meta(ge=0.0)] = 0.0
    """How far the temperature may move from `temperature`, by the entropy of the candidates; 0.0 is off."""
    dynatemp_exponent: Positive = 1.0
    """How the entropy maps to the temperature where `dynatemp_range` is set."""
    top_k: Amount = 40
    """Draw from the k likeliest tokens; 0 is off, and slow where no `min_p` follows: see `top_p`."""
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.95
    """Draw from the likeliest tokens that together reach p; 1.0 is off. With `top_k=0` each token's probability has to
    be known, which takes about 0.15 ms at 128,000 tokens, or 1.4 ms beside penalties, biases or a structure."""
    min_p: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.05
    """Drop tokens less likely than p times the likeliest; 0.0 is off."""
    typical_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    """Draw from the tokens of the most typical information that together reach p; 1.0 is off. With `top_k=0` a draw
    takes about 8 ms at 128,000 tokens."""
    top_n_sigma: Annotated[float, Meta(ge=0.0)] = 0.0
    """Drop tokens whose logit is more than n standard deviations below the best; 0.0 is off. It looks at every token:
    about 0.5 ms at 128,000."""
    xtc_probability: Share = 0.0
    """How often all likely tokens but the least likely of them are dropped; 0.0 is off. With `top_k=0` and no `min_p`
    a draw takes about 4 ms at 128,000 tokens."""
    xtc_threshold: Share = 0.1
    """From which probability on a token is likely to `xtc_probability`; above 0.5 is off."""
    repetition_penalty: Positive = 1.0
    """Above 1.0 makes tokens of the last `penalty_last_n` less likely; 1.0 is off."""
    frequency_penalty: float = 0.0
    """Taken from the logit of a token for each time that it is among the last `penalty_last_n`; 0.0 is off."""
    presence_penalty: float = 0.0
    """Taken from the logit of each token that is among the last `penalty_last_n`; 0.0 is off."""
    penalty_last_n: Window = 64
    """Tokens of prompt and reply that the three penalties look back on; -1: all of the context."""
    dry_multiplier: Annotated[float, Meta(ge=0.0)] = 0.0
    """How strongly a token that would extend a repeated sequence is penalised; 0.0 is off."""
    dry_base: Annotated[float, Meta(ge=1.0)] = 1.75
    """By how much that grows with each token of the sequence."""
    dry_allowed_length: Amount = 2
    """Longest sequence that may be repeated without a penalty, in tokens."""
    dry_penalty_last_n: Window = -1
    """Tokens that are searched for repeated sequences; -1: all of the context."""
    dry_sequence_breakers: Annotated[tuple[Breaker, ...], Meta(max_length=MAX_BREAKERS)] = ("\n", ":", '"', "*")
    """Texts that no repeated sequence extends over. The first request with other options of DRY than before takes some
    milliseconds for each of them; no other request waits for that. Texts that are a part of too many of the model's
    tokens, such as several single letters, are refused."""
    mirostat: Literal[0, 1, 2] = 0
    """Version of Mirostat, which holds the reply's surprise near `mirostat_tau` and takes the place of the `samplers`
    other than penalties and temperature; 0 is off. A draw then looks at every token: about 6 ms at 128,000."""
    mirostat_tau: Positive = 5.0
    """Wanted surprise of a token, in bits."""
    mirostat_eta: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1
    """How fast Mirostat corrects itself."""
    adaptive_p: Share | None = None
    """Draw tokens near this probability, corrected by those drawn before; `None` is off."""
    adaptive_p_decay: Annotated[float, Meta(ge=0.0, le=0.99)] = 0.9
    """How slowly `adaptive_p` forgets: it looks back on about 1 / (1 - decay) tokens."""
    logit_bias: Annotated[dict[Biased, float], Meta(max_length=MAX_BIASES)] = field(default_factory=dict)
    """Added to the logits of tokens, by id or by text, which means each token of it; between -10,000 and 10,000, or
    `-inf`: never drawn. What several entries say of a token is added up."""
    ignore_eos: bool = False
    """Never draw a token that ends the reply: it goes on until `response_tokens` or another end."""
    min_tokens: Amount = 0
    """Least tokens of the reply: no token that ends it is drawn before."""
    stop_token_ids: Annotated[tuple[Amount, ...], Meta(max_length=MAX_STOP_TOKENS)] = ()
    """Tokens that end the reply when they are drawn, beside those of the model; they are not part of it."""
    seed: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)] | None = None
    """Seed of the draw; `None`: the runtime draws one; `stats.seed` has it."""
    samplers: tuple[SamplerName, ...] = SAMPLERS
    """The samplers that are used, in this order; those whose option is off change nothing."""
    grammar: str | None = None
    """The reply follows this grammar, in GBNF (`root ::= …`) or in Lark as llguidance reads it (`start: …`)."""
    # The engine is given whatever the reply follows here, in llguidance's own form.
