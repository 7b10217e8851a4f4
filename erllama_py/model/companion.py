"""What the companion of a model is made of: a second context over the same weights, for reproducible requests. Pure.

The bits of logits, and with them the tokens, depend on what else lies in the cells of a context, on how a prompt is cut
into slices, and on the number of threads. So a companion has one sequence, computes prompts in slices that end on an
absolute grid, and always by the same number of threads. Its size and what its cells held before change nothing.
"""

from __future__ import annotations

import msgspec

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import ModelFacts
from erllama_py.options.model import ModelConfig

PREFIX = "reproducible:"

# Tokens of a slice. On two cores slices of 64 are as fast as longer ones but for a twentieth (SmolLM2: 242 tokens a
# second of 247; Gemma 3: 505 of 545), those of 32 lose a quarter. Whatever a prompt finds, the tokens after the last
# end are computed again, so short ones are found better. Copies of long ranges end at multiples of it (`MOST_TOKENS`).
GRID = 64


def companion_name(model_id: str) -> str:
    """The name under which its actor is registered, and that it has in the tree."""
    return f"{PREFIX}{model_id}"


def grid_of(facts: ModelFacts) -> int:
    """The grid of its slices: rows between two ends must not be longer than a sliding window, or their cells would lie
    elsewhere when they are restored."""
    grid = GRID
    while facts.n_swa and grid > facts.n_swa:
        grid //= 2
    return max(1, grid)


def companion_threads(config: ModelConfig, choice: ThreadChoice) -> ThreadChoice:
    """Its threads: those that are given, else half of what there is, so that streams of others go on."""
    few = config.context_opts.n_threads or max(1, choice.cpus // 2)
    many = config.context_opts.n_threads_batch or few
    return ThreadChoice(few=few, many=many, fixed_few=True, fixed_many=True, cpus=choice.cpus)


def companion_config(config: ModelConfig, facts: ModelFacts, grid: int, threads: ThreadChoice) -> ModelConfig:
    """Its configuration: the model's, but for what a context needs to compute the same bits each time.

    `swa_full`: a cell of a sliding window lies where it would lie without one, so that those that are restored do too.
    """
    size = min(grid, config.context_opts.cells)
    context = msgspec.structs.replace(
        config.context_opts, n_batch=size, n_ubatch=size, n_seq_max=1, n_threads=threads.few,
        n_threads_batch=threads.many, swa_full=True,
    )  # fmt: skip
    align = config.policy.boundary_align_tokens
    if facts.n_swa:
        align = min(align, facts.n_swa)
    policy = msgspec.structs.replace(config.policy, boundary_align_tokens=max(1, align // grid) * grid)
    return msgspec.structs.replace(config, context_opts=context, policy=policy)
