"""What a load has found out, and what it leaves to others. Data alone."""

from __future__ import annotations

import msgspec

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import FileFacts, ModelSource


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What is settled before any weights are read. The fingerprint is 64 hex digits."""

    facts: FileFacts
    fingerprint: str
    threads: ThreadChoice
    threads_reason: str


class Loaded(msgspec.Struct, frozen=True):
    """A model that is up: another context can be made over its weights."""

    backend: ModelSource
    prepared: Prepared
