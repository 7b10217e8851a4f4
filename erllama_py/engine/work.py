"""What one engine has computed so far: numbers that only its thread writes, and that any other may read at any time."""

from __future__ import annotations

import msgspec


class Work(msgspec.Struct, gc=False, eq=False):
    """See the module. Each number alone is always right; two that are read one after the other may be a tick apart."""

    decodes: int = 0  # that were done
    tokens: int = 0  # in these decodes
    seconds: float = 0.0  # in decodes, failed and stopped ones too
    prompt_tokens: int = 0  # of the tokens, those of prompts whose reply had not begun
    generated: int = 0  # tokens of replies
    parks: int = 0

    def plus(self, other: Work) -> Work:
        """Both together."""
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))
