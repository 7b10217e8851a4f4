"""llama.cpp's samplers, one entry each: when it is used, how it is made, and what it needs to see of the vocabulary.

A new sampler is a new entry here, a name in `options.sampling`, and its options there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from erllama_py.engine.llama.dry import Dry, DrySamplers
from erllama_py.engine.llama.native import Library
from erllama_py.options.sampling import Sampling

# What a step does to a list of candidates, and so whether those after it may be given a shorter one:
# - "few": changes the logits of tokens that it has seen or was given, of no others;
# - "scale": keeps the order and the ratios of distances;
# - "top": keeps the `top_k` best, "near": those within a distance of the best; all others might as well be absent;
# - "all": looks at every token that is there.
Kind = Literal["few", "scale", "top", "near", "all"]

_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp takes this one for "any"; a seed of ours always means the same draws
_MIROSTAT_M = 100  # as in llama.cpp's tools


class Making(NamedTuple):
    """What steps are made from: `n_ctx` is what "all of the context" means."""

    library: Library
    n_vocab: int
    n_ctx: int
    dry: DrySamplers


class Step(NamedTuple):
    """One sampler: `make` gives a `llama_sampler *`."""

    kind: Kind
    is_used: Callable[[Sampling], bool]
    make: Callable[[Making, Sampling], Any]


def seed_of(sampling: Sampling) -> int:
    """The seed as llama.cpp takes it."""
    seed = (sampling.seed or 0) & 0xFFFFFFFF
    return seed if seed != _RANDOM_SEED else 0


def window(last_n: int, n_ctx: int) -> int:
    """How many tokens a penalty looks back on: no more than there can be, since memory is taken for all of them."""
    return n_ctx if last_n < 0 else min(last_n, n_ctx)


def _penalises(sampling: Sampling) -> bool:
    changes = (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1.0, 0.0, 0.0)
    return changes and sampling.penalty_last_n != 0


def _penalties(made: Making, sampling: Sampling) -> Any:
    return made.library.c.llama_sampler_init_penalties(
        made.n_vocab, window(sampling.penalty_last_n, made.n_ctx), sampling.repetition_penalty,
        sampling.frequency_penalty, sampling.presence_penalty,
    )  # fmt: skip


def is_dry_used(sampling: Sampling) -> bool:
    """Whether a request has a DRY sampler."""
    return sampling.dry_multiplier > 0.0 and sampling.dry_penalty_last_n != 0 and "dry" in sampling.samplers


def dry_of(sampling: Sampling, n_ctx: int) -> Dry:
    """The options of the DRY sampler of a request."""
    return Dry(
        sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length,
        window(sampling.dry_penalty_last_n, n_ctx), tuple(text.encode() for text in sampling.dry_sequence_breakers),
    )  # fmt: skip


def _temperature(made: Making, sampling: Sampling) -> Any:
    if sampling.dynatemp_range > 0.0:
        return made.library.c.llama_sampler_init_temp_ext(
            sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent
        )
    return made.library.c.llama_sampler_init_temp(sampling.temperature)


STEPS: dict[str, Step] = {
    "penalties": Step("few", _penalises, _penalties),
    "dry": Step("few", is_dry_used, lambda m, s: m.dry.copy(dry_of(s, m.n_ctx))),
    "top_n_sigma": Step(
        "all", lambda s: s.top_n_sigma > 0.0, lambda m, s: m.library.c.llama_sampler_init_top_n_sigma(s.top_n_sigma)
    ),
    "top_k": Step("top", lambda s: s.top_k > 0, lambda m, s: m.library.c.llama_sampler_init_top_k(s.top_k)),
    "typical_p": Step(
        "all", lambda s: s.typical_p < 1.0, lambda m, s: m.library.c.llama_sampler_init_typical(s.typical_p, 1)
    ),
    "top_p": Step("all", lambda s: s.top_p < 1.0, lambda m, s: m.library.c.llama_sampler_init_top_p(s.top_p, 1)),
    "min_p": Step("near", lambda s: s.min_p > 0.0, lambda m, s: m.library.c.llama_sampler_init_min_p(s.min_p, 1)),
    "xtc": Step(
        "all", lambda s: s.xtc_probability > 0.0,
        lambda m, s: m.library.c.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 1, seed_of(s)),
    ),
    "temperature": Step("scale", lambda s: s.temperature != 1.0 or s.dynatemp_range > 0.0, _temperature),
}  # fmt: skip
# Those that are used beside Mirostat, and where the likeliest token is taken.
_WITH_MIROSTAT = ("penalties", "dry", "temperature")
_GREEDY = ("penalties", "dry")


def used(sampling: Sampling) -> Iterator[Step]:
    """The steps of a request, in their order, before its draw."""
    if biases(sampling):
        yield Step("few", lambda s: True, _bias)
    among = _GREEDY if sampling.temperature <= 0.0 else _WITH_MIROSTAT if sampling.mirostat else sampling.samplers
    for name in sampling.samplers:
        if name in among and STEPS[name].is_used(sampling):
            yield STEPS[name]


def draw(made: Making, sampling: Sampling) -> Any:
    """The last step, a `llama_sampler *`: it chooses."""
    c, seed = made.library.c, seed_of(sampling)
    if sampling.temperature <= 0.0:
        return c.llama_sampler_init_greedy()
    match sampling.mirostat:
        case 1:
            tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
            return c.llama_sampler_init_mirostat(made.n_vocab, seed, tau, eta, _MIROSTAT_M)
        case 2:
            return c.llama_sampler_init_mirostat_v2(seed, sampling.mirostat_tau, sampling.mirostat_eta)
    if sampling.adaptive_p is not None:
        return c.llama_sampler_init_adaptive_p(sampling.adaptive_p, sampling.adaptive_p_decay, seed)
    return c.llama_sampler_init_dist(seed)


def biases(sampling: Sampling) -> list[tuple[int, float]]:
    """Tokens and what is added to their logits; those of banned ones never reach the chain."""
    return [(int(token), bias) for token, bias in sampling.logit_bias.items() if bias != -math.inf]


def _bias(made: Making, sampling: Sampling) -> Any:
    c, pairs = made.library.c, biases(sampling)
    return c.llama_sampler_init_logit_bias(made.n_vocab, len(pairs), (c.llama_logit_bias * len(pairs))(*pairs))


# --- which candidates the chain must be given --------------------------------------------------------------------


class Cut(NamedTuple):
    """Which tokens can still be drawn: the `top` best, those `near` the best by so much of a logit, or all where both
    are None. Tokens whose logits the chain changes come on top."""

    top: int | None = None
    near: float | None = None


def cut(sampling: Sampling) -> Cut:
    """The shortest list that gives the same draw as that of all tokens."""
    scale = 1.0
    for step in used(sampling):
        match step.kind:
            case "top":
                return Cut(top=sampling.top_k)
            case "near":
                return Cut(near=-math.log(sampling.min_p) * scale)
            case "scale" if sampling.dynatemp_range == 0.0:
                scale *= sampling.temperature
            case "scale" | "all":
                return Cut()
    return Cut(top=1) if sampling.temperature <= 0.0 else Cut()


def leads_with_top_p(sampling: Sampling) -> bool:
    """Whether `top_p` is the first step, which `Rows.nucleus` can take: it looks at every token, but needs no list."""
    return next(used(sampling), None) is STEPS["top_p"]


def changes_few(sampling: Sampling) -> int:
    """How many tokens of the past the chain may change the logits of; -1: all that the context holds."""
    windows = [0]
    if _penalises(sampling) and "penalties" in sampling.samplers:
        windows.append(sampling.penalty_last_n)
    if is_dry_used(sampling):
        windows.append(sampling.dry_penalty_last_n)
    return -1 if -1 in windows else max(windows)
