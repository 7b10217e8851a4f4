"""What a request may ask of a conversation and its reply."""

from __future__ import annotations

from typing import Any

from erllama_py.options.sampling import Sampling


class ChatOptions(Sampling, frozen=True):
    """The options of a request that are about a conversation."""

    tools: Any = None
    """The tools that the reply may call: mappings in OpenAI's function form, or in its inner one (`name`,
    `description`, `parameters`), and Python functions, whose type hints and docstrings say the same. At most 128. They
    are shown to the model by its chat template."""
