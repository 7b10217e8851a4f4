"""What requests say of sampling and of their reply, by this library's names."""

from __future__ import annotations

from typing import Any

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.openai.protocol import Sampled

# Those that are called the same in both.
SAME = (
    "temperature", "top_p", "n", "presence_penalty", "frequency_penalty", "min_p", "typical_p", "top_n_sigma",
    "repetition_penalty", "dynatemp_range", "dynatemp_exponent", "xtc_probability", "xtc_threshold", "dry_multiplier",
    "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau",
    "mirostat_eta", "ignore_eos", "min_tokens", "stop_token_ids", "grammar", "json_schema", "reproducible",
    "thinking_budget_tokens",
)  # fmt: skip
DAY = 86_400.0  # in seconds


def sampling(request: Sampled) -> dict[str, Any]:
    """The options of a request that chat and plain completions share. Raises `Problem`."""
    options = {name: getattr(request, name) for name in SAME}
    options |= {
        "stop_sequences": request.stop, "logit_bias": _biases(request.logit_bias),
        "penalty_last_n": request.repeat_last_n, "seed": _seed(request.seed), "top_k": request.top_k,
        "response_tokens": most_tokens(request.max_tokens, "max_tokens"),
    }  # fmt: skip
    if request.repeat_penalty is not None:
        options["repetition_penalty"] = request.repeat_penalty
    if request.prompt_cache_retention == "24h":
        options["keep"] = [{"seconds": DAY}]
    if request.top_k == -1:  # vLLM's word for off
        options["top_k"] = 0
    if request.temperature == 0.0 and (request.n or 1) > 1:  # replies that are alike, which the library refuses to draw
        options |= {"temperature": 1.0, "top_k": 1}
    return options


def most_tokens(given: int | None, name: str) -> int | None:
    """The bound of a reply; None without one. Raises `Problem`."""
    if given is None or given == -1:  # llama-server's word for none
        return None
    if given < 1:
        raise Problem("invalid", f"{name}: expected at least 1 token, got {given}", param=name)
    return given


def _seed(given: int | None) -> int | None:
    """OpenAI's seeds have 64 bits, those of the engine 32; -1 is llama-server's word for any."""
    return None if given is None or given == -1 else given % (1 << 32)


def _biases(given: dict[str, float] | None) -> dict[int, float] | None:
    if given is None:
        return None
    for key in given:
        if not key.isdecimal() or len(key) > 9:
            raise Problem("invalid", f"logit_bias: a token id is expected, got {key[:40]!r}", param="logit_bias")
    return {int(key): bias for key, bias in given.items()}
