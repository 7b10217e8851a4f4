"""The options of the stub backend, the deterministic stand-in for tests and drills."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from erllama_py.options.check import Amount, Options

STUB_TOKENS = 260  # the stub's vocabulary starts with 256 bytes and its control tokens

Seconds = Annotated[float, Meta(ge=0.0, le=3600.0)]


class StubOpts(Options, frozen=True):
    """How the stub backend behaves; only for `backend="stub"`. Times are in seconds."""

    vocab_size: Annotated[int, Meta(ge=STUB_TOKENS, le=1 << 20)] = 320
    """Tokens in the vocabulary; the first 256 are bytes."""
    replies: tuple[str, ...] | dict[str, str] = ()
    """What it says: texts for the requests in their order since the load, the last for all that come after; or a
    mapping of what a prompt contains to its reply, the first that fits, `""` for any. By default letters that the
    prompt determines. A structure that a request asks for is followed all the same."""
    seconds_per_token: Seconds = 0.0
    """How long a decode takes for each of its tokens."""
    load_seconds: Seconds = 0.0
    """How long a load takes."""
    fail_load: bool = False
    """Whether a load fails at its end."""
    fail_decode_after: Amount | None = None
    """Decodes that work before one fails; `None`: none fails."""
    hang_decode_after: Amount | None = None
    """Decodes that work before one hangs; `None`: none hangs."""
    memory: Literal["full", "window", "recurrent", "hybrid"] = "full"
    """What its KV memory can do: keep everything, forget what leaves a window, or refuse to be cut back."""
    n_swa: Amount = 0
    """Width of the sliding window in tokens, for `memory="window"`."""
    seconds_per_copy: Seconds = 0.0
    """How long copying a range of cells out takes, and putting one back, however long it is."""
    seconds_per_copied_token: Seconds = 0.0
    """How much longer that takes for each of its tokens."""
    n_embd: Annotated[int, Meta(ge=1, le=65_536)] = 64
    """Numbers of an embedding. Texts that share pairs of bytes are alike."""
    embeds_only: bool = False
    """Whether it is an encoder, which embeds and cannot generate."""
    ranks: bool = False
    """Whether it ranks documents, by the pairs of bytes that they share with the query."""
