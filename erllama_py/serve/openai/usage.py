"""What a reply took, as OpenAI's usage objects tell it. The numbers are those of the engine."""

from __future__ import annotations

from typing import Any

import erllama_py as erllama


def usage(completion: erllama.Completion, thought: int = 0) -> dict[str, Any]:
    """Tokens of one request, of all its alternatives together; `thought` of them were thinking.

    Of the prompt's `cached_tokens` were read from cells or rows instead of computed, `cache_write_tokens` were computed
    and saved: clients that add both up never get more than the prompt.
    """
    replies = completion.alternatives or (completion,)
    saved = sum(one.cache_delta.created for one in replies)  # of the replies too
    computed = completion.prompt_tokens - completion.cache_delta.read
    generated = sum(len(one.generated) for one in replies)
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": completion.prompt_tokens + generated,
        "prompt_tokens_details": {
            "cached_tokens": completion.cache_delta.read,
            "cache_write_tokens": min(saved, computed),
        },
        "completion_tokens_details": {"reasoning_tokens": thought},
    }
