"""Gates: when prefixes are saved, per model or for a whole runtime, each gate by itself."""

from __future__ import annotations

from typing import Any

import msgspec

from erllama_py.errors import InvalidOption
from erllama_py.options.check import Amount, Count, Options, convert, under

NOT_GIVEN: Any = msgspec.UNSET  # of a checked configuration every gate is given


class PolicyOpts(Options, frozen=True):
    """Gates: when prefixes are saved. Lengths are in tokens.

    Those that are not given are `msgspec.UNSET`: a model then has those of `Runtime(policy=…)`, a runtime the defaults.
    """

    min_tokens: Amount | None = NOT_GIVEN
    """Shortest prefix that is saved; `None` saves nothing. By default 128."""
    cold_min_tokens: Amount | None = NOT_GIVEN
    """Shortest prompt that is saved after its prefill; at least `min_tokens`. By default `None`: the same as it."""
    cold_max_tokens: Amount | None = NOT_GIVEN
    """Longest prompt that is saved after its prefill. By default `None`: no limit."""
    continued_interval: Count = NOT_GIVEN
    """Generated tokens between two saves of a long reply. By default 256."""
    boundary_trim_tokens: Amount = NOT_GIVEN
    """Tokens left off a prompt's end, which differs next time, before its boundary is looked for. By default 32."""
    boundary_align_tokens: Count = NOT_GIVEN
    """Boundaries lie on multiples of this. By default 256."""
    session_resume_wait_ms: Amount = NOT_GIVEN
    """Longest wait for a save that `parent_key` names, for rows of the prompt that are being saved where memory cannot
    be cut back, or for a tier that is opened, in milliseconds. By default 500."""
    evict_save_timeout_ms: Amount = NOT_GIVEN
    """Longest that `evict`, `unload` and the end of the runtime wait for saves, in milliseconds. By default 10,000."""


# Why the gates have these defaults; the measurements are tables of docs/benchmarks.md.
# - `min_tokens`: a hit saves time at every length that was measured, so this gate is about bytes: 128 tokens are 3 MB
#   of a model of 135 million parameters and 16 MB of one of 8 billion, and rows of shorter prompts would mostly
#   never be read.
# - `boundary_align_tokens`: spans of 256 and of 512 tokens delay decoding equally little (5 ms in total for 1,024
#   tokens of SmolLM2); spans of 64 and 128 delay it longer, and make four times and twice as many files. Shorter ones
#   are found more often. Half of a micro-batch of 512 also leaves the cuts of a prefill alone.
# - `continued_interval`: a span costs only its own tokens, so saving often costs no more bytes than saving rarely. 256
#   tokens are some seconds of a reply: what kill -9 costs of it at most.
# - `boundary_trim_tokens`: what a prompt ends with (a question mark, the header of the answer) differs next time. Chat
#   templates put 5 to 15 tokens after the last text.
# - `session_resume_wait_ms`: a row is stored in 5 to 20 ms and 10,000 headers are read in 400, so this is for slow
#   disks; computing what was waited for would take seconds.
# - `evict_save_timeout_ms`: in ten seconds an SSD takes gigabytes. Docker's default stop timeout is also 10 s;
#   Kubernetes waits for 30 seconds, systemd for 90.
DEFAULT_POLICY = PolicyOpts(
    min_tokens=128,
    cold_min_tokens=None,
    cold_max_tokens=None,
    continued_interval=256,
    boundary_trim_tokens=32,
    boundary_align_tokens=256,
    session_resume_wait_ms=500,
    evict_save_timeout_ms=10_000,
)


def parse_policy(options: object) -> PolicyOpts:
    """Check gates that are given without a model, and fill in the defaults. Raises `InvalidOption`."""
    with under("policy"):
        policy = filled(convert(options, PolicyOpts), DEFAULT_POLICY)
    check_policy(policy)
    return policy


def filled(policy: PolicyOpts, defaults: PolicyOpts) -> PolicyOpts:
    """The gates that are given, and the others as in `defaults`."""
    given = {name: gate for name, gate in msgspec.structs.asdict(policy).items() if gate is not NOT_GIVEN}
    return msgspec.structs.replace(defaults, **given)


def check_policy(policy: PolicyOpts) -> None:
    least, cold_least = policy.min_tokens or 0, policy.cold_min_tokens
    if cold_least is not None and cold_least < least:
        raise InvalidOption("policy.cold_min_tokens", f"it must not be below min_tokens, which is {least}")
    if policy.cold_max_tokens is not None and policy.cold_max_tokens < (cold_least or least):
        problem = f"it must not be below cold_min_tokens, which is {cold_least or least}"
        raise InvalidOption("policy.cold_max_tokens", problem)
