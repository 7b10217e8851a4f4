"""The chat template that a GGUF brings: Jinja, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from erllama_py.errors import ChatTemplateError


class ChatTemplate:
    def __init__(self, source: str | None, bos_token: str, eos_token: str) -> None:
        self._source, self._bos, self._eos = source, bos_token, eos_token

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        if self._source is None:
            raise ChatTemplateError("the model has no chat template")
        try:
            environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            return environment.from_string(self._source).render(
                messages=messages, tools=tools, add_generation_prompt=add_generation_prompt,
                bos_token=self._bos, eos_token=self._eos,
            )  # fmt: skip
        except jinja2.TemplateError as error:
            raise ChatTemplateError(str(error)) from error
