"""What a runtime forwards to its models: `runtime.X(model_or_id, …)` is `model.X(…)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erllama_py.handle.model import ChatMessage, Model, Prompt
from erllama_py.handle.session import Session
from erllama_py.handle.stream import Stream
from erllama_py.results import CachedPrefix, CacheHit, Completion, Explanation, ModelInfo, Phase
from erllama_py.scheduler.messages import FaultPlace


class ModelCalls:
    """The calls of `Model`, by handle or id. All raise `ModelNotLoaded` for an id that is not loaded."""

    def model(self, model: Model | str) -> Model:
        """The handle of a loaded model. Raises `ModelNotLoaded`."""
        raise NotImplementedError

    def model_info(self, model: Model | str) -> ModelInfo:
        """Everything known of one model."""
        return self.model(model).info

    def phase(self, model: Model | str) -> Phase:
        """What a model is doing now."""
        return self.model(model).phase

    def pending_len(self, model: Model | str) -> int:
        """Requests that wait for a model."""
        return self.model(model).pending_len

    def last_cache_hit(self, model: Model | str) -> CacheHit | None:
        """How the last request of a model hit the cache."""
        return self.model(model).last_cache_hit

    async def complete(self, model: Model | str, prompt: Prompt, **options: Any) -> Completion:
        """`Model.complete`, by handle or id."""
        return await self.model(model).complete(prompt, **options)

    def stream(self, model: Model | str, prompt: Prompt, **options: Any) -> Stream:
        """`Model.stream`, by handle or id."""
        return self.model(model).stream(prompt, **options)

    async def chat(self, model: Model | str, messages: Sequence[ChatMessage], **options: Any) -> Completion:
        """`Model.chat`, by handle or id."""
        return await self.model(model).chat(messages, **options)

    def stream_chat(self, model: Model | str, messages: Sequence[ChatMessage], **options: Any) -> Stream:
        """`Model.stream_chat`, by handle or id."""
        return self.model(model).stream_chat(messages, **options)

    def session(self, model: Model | str, session_id: str | None = None, **options: Any) -> Session:
        """`Model.session`, by handle or id."""
        return self.model(model).session(session_id, **options)

    def cancel(self, model: Model | str, request_id: int) -> None:
        """`Model.cancel`, by handle or id."""
        self.model(model).cancel(request_id)

    async def tokenize(self, model: Model | str, text: str, **options: bool) -> list[int]:
        """`Model.tokenize`, by handle or id."""
        return await self.model(model).tokenize(text, **options)

    async def detokenize(self, model: Model | str, tokens: Sequence[int], **options: bool) -> str:
        """`Model.detokenize`, by handle or id."""
        return await self.model(model).detokenize(tokens, **options)

    async def apply_chat_template(
        self, model: Model | str, messages: Sequence[ChatMessage], **options: Any
    ) -> list[int]:
        """`Model.apply_chat_template`, by handle or id."""
        return await self.model(model).apply_chat_template(messages, **options)

    def inject_fault(self, model: Model | str, where: FaultPlace = "actor") -> None:
        """`Model.inject_fault`, by handle or id."""
        self.model(model).inject_fault(where)

    async def prefill_only(self, model: Model | str, prompt: Prompt, **options: Any) -> Completion:
        """`Model.prefill_only`, by handle or id."""
        return await self.model(model).prefill_only(prompt, **options)

    async def explain(self, model: Model | str, prompt: Prompt, **options: Any) -> Explanation:
        """`Model.explain`, by handle or id."""
        return await self.model(model).explain(prompt, **options)

    async def list_cached_prefixes(
        self, model: Model | str, tokens: Sequence[int], **options: Any
    ) -> list[CachedPrefix]:
        """`Model.list_cached_prefixes`, by handle or id."""
        return await self.model(model).list_cached_prefixes(tokens, **options)
