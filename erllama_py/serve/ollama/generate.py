"""`POST /api/generate`: one prompt answered, in the model's chat template or as it is (`raw`)."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.chat import loaded
from erllama_py.serve.ollama.lines import LineWriter, Reply, generate_shape
from erllama_py.serve.ollama.messages import with_images
from erllama_py.serve.ollama.protocol import GenerateRequest, reply_options
from erllama_py.serve.ollama.staying import model_of, unloaded
from erllama_py.serve.ollama.thinking import of_prompt, thinking_options


class Prompt(msgspec.Struct, frozen=True):
    """What a model is given."""

    text: str | list[int]
    """A prompt, where there are no messages; else the tokens of all that they come to."""
    options: dict[str, Any] = {}
    messages: list[dict[str, Any]] | None = None


async def generate(exchange: Exchange) -> ASGIApp:
    """Answer a prompt. Without one: as soon as the model is there, or, to be kept for 0 seconds, goes."""
    request = await exchange.body(GenerateRequest)
    check(request)
    given = reply_options(request)
    if not request.prompt and not request.images and (gone := unloaded(exchange, request)) is not None:
        return json_response(Reply(gone, generate_shape, exchange.began, lambda completion: {}).unloaded())
    model = await model_of(exchange, request)
    text = with_images(request.prompt or "", request.images, exchange.service.settings, "images")
    prompt = await exchange.answer(_prompt(model, request, text)) if text else Prompt(text)

    def further(completion: erllama.Completion) -> dict[str, Any]:
        return {} if isinstance(prompt.text, str) else {"context": context(prompt.text, completion)}

    reply = Reply(request.model or model.id, generate_shape, exchange.began, further)
    if not text:
        return await loaded(exchange, model, reply)
    options: Any = exchange.options(given | prompt.options)
    if request.stream is not False:
        if prompt.messages is None:
            return await exchange.streamed(model.stream(prompt.text, options=options), LineWriter(reply))
        return await exchange.streamed(model.stream_chat(prompt.messages, options=options), LineWriter(reply))
    if prompt.messages is None:
        completion = await exchange.answer(model.complete(prompt.text, options=options))
    else:
        completion = await exchange.answer(model.chat(prompt.messages, options=options))
    return json_response(reply.whole(completion))


def check(request: GenerateRequest) -> None:
    """Refuse what is not served, and what makes no sense together. Raises `Problem`."""
    if request.suffix:
        raise Problem("invalid", "text is not filled in between here: send what comes before", param="suffix")
    if request.template:
        message = "a template of a request is not taken: the model's own is used, and with raw none at all"
        raise Problem("invalid", message, param="template")
    if request.raw and (request.system or request.context):
        param = "system" if request.system else "context"
        raise Problem("invalid", "with raw the prompt is taken as it is", param=param)


def context(prompt: list[int], completion: erllama.Completion) -> list[int]:
    """The tokens up to the end of a reply, from which the next request can go on."""
    end = [] if completion.stop_token_id is None else [completion.stop_token_id]
    return [*prompt, *completion.generated, *end]


async def _prompt(model: erllama.Model, request: GenerateRequest, text: str) -> Prompt:
    """What a request comes to. Raises `Problem`, `ErllamaError`."""
    if request.raw:
        return Prompt(text, {"thinking": True} if request.think else {})
    form = await model.chat_format()
    if not form.template and not request.system and not request.context:
        return Prompt(text)  # a base model, which goes on from its prompt
    messages = [{"role": "user", "content": text}]
    if request.system:
        messages.insert(0, {"role": "system", "content": request.system})
    options = thinking_options(request.think, form)
    shaping = {name: options[name] for name in ("thinking", "template_kwargs") if name in options}
    tokens = await model.apply_chat_template(messages, **shaping)
    if not request.context:
        return Prompt(tokens, options, messages)
    begin = await model.tokenize("")  # the begin token, of models that want one: it is in the context already
    if begin and tokens[: len(begin)] == begin:
        tokens = tokens[len(begin) :]
    return Prompt([*request.context, *tokens], of_prompt(request.think, form))
