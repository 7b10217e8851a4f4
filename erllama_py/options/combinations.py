"""Options of a request that make no sense together: refused with the reason, since one could not do what it says. Pure.

What does nothing beside the others is let in: clients send whole presets, with `top_p` at temperature 0, or
`mirostat_tau` without Mirostat.
"""

from __future__ import annotations

from erllama_py.errors import InvalidOption
from erllama_py.options.sampling import Sampling

# The options that put a sampler to work, and their values where they do not. Greedy draws need no temperature step.
OFF: dict[str, dict[str, tuple[object, ...]]] = {
    "penalties": {"repetition_penalty": (1.0,), "frequency_penalty": (0.0,), "presence_penalty": (0.0,)},
    "dry": {"dry_multiplier": (0.0,)},
    "top_n_sigma": {"top_n_sigma": (0.0,)},
    "top_k": {"top_k": (0,)},
    "typical_p": {"typical_p": (1.0,)},
    "top_p": {"top_p": (1.0,)},
    "min_p": {"min_p": (0.0,)},
    "xtc": {"xtc_probability": (0.0,)},
    "temperature": {"temperature": (1.0, 0.0), "dynatemp_range": (0.0,)},
}
_DEFAULTS = Sampling()


def check_combinations(sampling: Sampling, response_tokens: int | None, *, structured: bool) -> None:
    """Raises `InvalidOption` for the first option that cannot do what it says beside the others.

    `structured` where the request says what its reply looks like.
    """
    _check_samplers(sampling)
    _check_draw(sampling)
    least = sampling.min_tokens
    if response_tokens is not None:
        _refuse(least > response_tokens, "min_tokens", f"it is more than response_tokens={response_tokens}")
    if structured:
        ends = "the structure of the reply says where it ends"
        _refuse(sampling.ignore_eos, "ignore_eos", ends)
        _refuse(least > 0, "min_tokens", ends)


def _refuse(when: bool, option: str, problem: str) -> None:
    if when:
        raise InvalidOption(option, problem)


def _check_samplers(sampling: Sampling) -> None:
    for sampler in sampling.samplers:
        _refuse(sampling.samplers.count(sampler) > 1, "samplers", f"{sampler!r} is there more than once")
    for name, options in OFF.items():
        for option, off in options.items() if name not in sampling.samplers else ():
            value = getattr(sampling, option)
            used = value not in off and value != getattr(_DEFAULTS, option)
            _refuse(used, option, f"it needs {name!r} among the `samplers`")


def _check_draw(sampling: Sampling) -> None:
    greedy, mirostat = sampling.temperature == 0.0, sampling.mirostat != 0
    likeliest = "at temperature 0.0 the likeliest token is always taken"
    _refuse(greedy and mirostat, "mirostat", likeliest)
    _refuse(greedy and sampling.adaptive_p is not None, "adaptive_p", likeliest)
    _refuse(greedy and sampling.xtc_probability > 0.0, "xtc_probability", likeliest)
    below = f"it reaches below 0.0 from a temperature of {sampling.temperature:g}"
    _refuse(sampling.dynatemp_range > sampling.temperature, "dynatemp_range", likeliest if greedy else below)
    _refuse(
        mirostat and sampling.adaptive_p is not None, "adaptive_p", "Mirostat chooses the token: use one of the two"
    )
    _refuse(mirostat and sampling.xtc_probability > 0.0, "xtc_probability", "Mirostat takes the place of this sampler")
    never = sampling.xtc_probability > 0.0 and sampling.xtc_threshold > 0.5
    _refuse(never, "xtc_threshold", "no two tokens can both be likelier than 0.5: nothing would ever be dropped")
