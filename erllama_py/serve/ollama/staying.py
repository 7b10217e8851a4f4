"""`keep_alive` of a request: how long its model stays; and models that requests without a text load and unload.

It holds until the model is unloaded, or a request says otherwise. A model that is pinned, or is its host's, heeds none.
"""

from __future__ import annotations

import erllama_py as erllama
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.ollama.protocol import Asked, stay_of


async def model_of(exchange: Exchange, request: Asked) -> erllama.Model:
    """The model that a request names, which stays from now on as it says. Raises `Problem`, and what a load raises."""
    stay = stay_of(request.keep_alive)
    model = await exchange.model(request.model)
    if stay is not None:
        exchange.service.served.keep(model.id, stay[0])
    return model


def unloaded(exchange: Exchange, request: Asked) -> str | None:
    """The name of the model that a request without a text unloads, once nobody has it; None where it does not, or the
    model stays whatever requests say. Raises `Problem`."""
    if stay_of(request.keep_alive) != (0.0,):
        return None
    info = exchange.info(request.model)
    return (request.model or info.id) if exchange.service.served.keep(info.id, 0.0) else None
