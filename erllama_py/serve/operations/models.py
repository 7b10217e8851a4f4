"""`GET /erllama/models`: what each model does, loaded or not, and the memory that they share."""

from __future__ import annotations

import msgspec
from starlette.types import ASGIApp

from erllama_py.serve.core.exchange import Exchange, json_response
from erllama_py.serve.core.served import ModelState, ServedState
from erllama_py.serve.core.service import Service
from erllama_py.serve.operations.protocol import without_folders


def shown(service: Service) -> ServedState:
    """All models, with texts that name no folder of the machine. Raises `RuntimeClosed`."""
    state = service.states()
    return msgspec.structs.replace(state, models=tuple(map(_shown, state.models)))


def _shown(model: ModelState) -> ModelState:
    problem = None if model.problem is None else without_folders(model.problem)
    return msgspec.structs.replace(model, problem=problem)


async def models(exchange: Exchange) -> ASGIApp:
    """What each model does, loaded or not: what it takes, who has it, who waits for it, and when it goes."""
    exchange.check_operator()
    return json_response(shown(exchange.service))
