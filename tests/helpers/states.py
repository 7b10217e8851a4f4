"""States of a model's machine with many sequences: some idle, made as they are, and requests, made by its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erllama_py.cache.keys import pack_tokens
from erllama_py.scheduler.cells import Slot, written
from erllama_py.scheduler.messages import Effect, LookUp, Submit
from erllama_py.scheduler.stages import Core, Waiting, Working
from erllama_py.scheduler.state import Limits, State, changed, new_state, with_slot
from helpers.requests import found, run, submit
from helpers.rows import IDENTITY

A, B, C, D = (list(range(first, first + 60)) for first in (1000, 2000, 3000, 4000))
OWN_BLOCKS = 1000  # blocks of sequences made here are beyond those that a machine makes in a test


def limits(**fields: Any) -> Limits:
    """Three sequences with room for three prompts of 60 and their replies; what is given to a reply is 4 cells."""
    values: dict[str, Any] = {"memory": "full", "n_seq_max": 3, "n_cells": 201, "quantum": 4, "min_tokens": 0}
    return Limits(**(values | fields))


def kept(seq_id: int, tokens: Sequence[int], **fields: Any) -> Slot:
    """An idle sequence, all saved."""
    pieces = written((), 0, len(tokens), OWN_BLOCKS + seq_id)
    values: dict[str, Any] = {"identity": IDENTITY, "captured_to": len(tokens), "pieces": pieces}
    return Slot(seq_id, pack_tokens(tokens), **(values | fields))


def state_with(*slots: Slot, **fields: Any) -> State:
    """An idle model that holds these sequences; `fields` are those of `limits`."""
    state = new_state(limits(**fields))
    for slot in slots:
        state = with_slot(state, slot)
    return state


def asked(request_id: int, tokens: Sequence[int], **fields: Any) -> Submit:
    """A request for ten tokens with other values in some fields."""
    return Submit(changed(submit(request_id, tokens).request, **({"max_new_tokens": 10, "plan": None} | fields)))


def waiting(request_id: int, tokens: Sequence[int], **fields: Any) -> Waiting:
    """One that a place is looked for."""
    return Waiting(Core(asked(request_id, tokens, **fields).request, stream=False))


def begun(state: State, *submits: Submit) -> State:
    """The state in which the engine is at work on these; the cache had nothing for them."""
    for event in submits:
        state, _ = run(state, event, found(event.request.id))
        assert isinstance(state.placed.get(event.request.id), Working)
    return state


def looked_up(effects: Sequence[Effect]) -> list[int]:
    """The requests that the cache is asked for."""
    return [effect.request.id for effect in effects if isinstance(effect, LookUp)]
