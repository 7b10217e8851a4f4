"""`keep_alive` of a request: how long its model stays; and models that requests without a text load and unload.

It holds until the model is unloaded, or a request says otherwise. A model that is pinned, or is its host's, heeds none.
"""

from __future__ import annotations

import erllama_py as erllama
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.protocol import Asked, stay_of


async def model_of(exchange: Exchange, request: Asked) -> erllama.Model:
    """The model that a request names, which stays from now on as it says. Raises `Problem`, and what a load raises."""
    stay = stay_of(request.keep_alive)
    model = await exchange.model(request.model)
    if stay is not None:
        exchange.service.served.keep(model.id, stay[0])
    return model


def is_unload(request: Asked) -> bool:
    """Whether a request that has no text unloads its model. Raises `Problem`."""
    return stay_of(request.keep_alive) == (0.0,)


def unload(exchange: Exchange, request: Asked) -> str:
    """Have the model unloaded once nobody has it; its id. Raises `Problem`."""
    info = exchange.info(request.model)
    if not exchange.service.served.keep(info.id, 0.0):
        message = "this model stays loaded, whatever requests say: so the server is set up"
        raise Problem("forbidden", message, param="keep_alive", code="model_stays")
    return info.id
