"""`/erllama/models`: what each model does, loaded or not, and the memory that they share; loads and unloads by hand.

`POST /erllama/reload` reads the configuration again.
"""

from __future__ import annotations

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem, problem_of
from erllama_py.serve.core.served import ModelState, ServedState
from erllama_py.serve.core.service import Service
from erllama_py.serve.operations.protocol import without_folders


def shown(service: Service) -> ServedState:
    """All models, with texts that name no folder of the machine. Raises `RuntimeClosed`."""
    state = service.states()
    return msgspec.structs.replace(state, models=tuple(map(_shown, state.models)))


def _shown(model: ModelState) -> ModelState:
    problem, crash = (None if text is None else without_folders(text) for text in (model.problem, model.last_crash))
    return msgspec.structs.replace(model, problem=problem, last_crash=crash)


async def models(exchange: Exchange) -> ASGIApp:
    """What each model does, loaded or not: what it takes, who has it, who waits for it, and when it goes."""
    exchange.check_operator()
    return json_response(shown(exchange.service))


async def load(exchange: Exchange) -> ASGIApp:
    """Load a model, and wait until it is there; others may have to go for it. What it does then."""
    exchange.check_operator()
    info = exchange.info(exchange.request.path_params["name"])
    try:
        await exchange.answer(exchange.service.served.load(info.id))
    except erllama.ErllamaError as error:
        known = problem_of(error)
        if known.kind != "internal" and not isinstance(error, erllama.InsufficientMemory):
            raise
        code = known.code or "model_load_failed"
        raise Problem("unavailable", without_folders(str(error)), code=code, retry_after=1) from error
    return json_response(_one(exchange, info.id))


async def unload(exchange: Exchange) -> ASGIApp:
    """Unload a model as soon as the requests that have it are over, with what it holds saved. Those that come meanwhile
    wait, and load it again. What it does now."""
    exchange.check_operator()
    info = exchange.info(exchange.request.path_params["name"])
    exchange.service.served.unload(info.id)
    return json_response(_one(exchange, info.id))


async def reload(exchange: Exchange) -> ASGIApp:
    """Read the configuration again and apply what has changed. One with an error changes nothing."""
    exchange.check_operator()
    if exchange.service.reload is None:
        message = "this server has no configuration file that could be read again"
        raise Problem("forbidden", message, code="not_served")
    try:
        return json_response(await exchange.service.reload())
    except erllama.ErllamaError as error:
        raise Problem("invalid", without_folders(str(error)), code="config_error") from error


def _one(exchange: Exchange, model_id: str) -> ModelState:
    return next(one for one in shown(exchange.service).models if one.name == model_id)
