"""A FastAPI application around one model: the runtime in the lifespan, a streamed answer, a client that may go away.

MODEL_PATH=tiny.gguf CACHE_PATH=/var/cache/my_app/kvc uvicorn fastapi_app:app

With a cache path, what was computed is kept on the disk: a server that is stopped, by SIGTERM too, saves what is not
saved yet before it ends, and the next one starts warm.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

import erllama_py as erllama

# The first class that fits counts: `ModelNotLoaded` is a `ModelUnavailable` too.
STATUS = {
    erllama.SessionBusy: 409,
    erllama.InvalidOption: 422,
    erllama.RequestError: 422,
    erllama.ModelNotLoaded: 404,
    erllama.ModelUnavailable: 503,
    erllama.RuntimeClosed: 503,
}

# FastAPI sees to it that a body is JSON and of this shape; the rest is for the model to check.
Prompt = Annotated[Any, Body()]
Messages = Annotated[list[Any], Body()]
Options = Annotated[dict[str, Any], Body(default_factory=dict)]


def create_app(config: erllama.ModelConfigDict, cache_path: str | None = None) -> FastAPI:
    """The application; `config` is what `load_model` takes, `cache_path` a directory for what was computed."""
    tiers = {"disk": erllama.DiskTier(cache_path)} if cache_path else {}
    if cache_path:
        config = {**config, "tier": "disk", "tier_srv": "disk"}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with erllama.Runtime(tiers=tiers) as runtime:
            app.state.model = await runtime.load_model("model", config)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.exception_handler(erllama.ErllamaError)
    async def refuse(request: Request, error: erllama.ErllamaError) -> JSONResponse:
        """Each error class has a status; the class and its sentence are the answer."""
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse(described(error), status, headers)

    @app.post("/complete")
    async def complete(request: Request, prompt: Prompt, options: Options) -> Any:
        """`{"prompt": …, "options": {…}}`: the whole reply. A client that has gone takes nobody's place."""
        done = await while_connected(request, app.state.model.complete(prompt, options=options))
        if done is None:
            return Response(status_code=499)  # nobody reads it
        return {"reply": done.reply, "finish_reason": done.finish_reason, "reused": done.cache_delta.read}

    @app.post("/chat")
    async def chat(messages: Messages, options: Options) -> StreamingResponse:
        """`{"messages": […], "options": {…}}`: server-sent events: text, thinking, calls; then the counts."""
        events = server_sent(app.state.model.stream_chat(messages, options=options))
        await anext(events)  # the request is accepted, or its error is answered with a status
        return StreamingResponse(events, media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Read from the probes; costs the model nothing."""
        model = app.state.model
        return {"phase": model.phase, "queue_depth": model.queue_depth}

    return app


async def while_connected(request: Request, work: Coroutine[Any, Any, erllama.Completion]) -> erllama.Completion | None:
    """What comes of `work`; None when the client goes away before, which is all that it can say after its body."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        gone.cancel()
        task.cancel()


def described(error: erllama.ErllamaError) -> dict[str, str]:
    """An error as JSON."""
    return {"error": type(error).__name__, "detail": str(error)}


async def server_sent(stream: erllama.Stream) -> AsyncIterator[str]:
    """The events of a stream as server-sent events, after an empty text that says that it has begun.

    An error after that has no status any more: it is the last event. When the client goes away, the server drops
    this generator, at whichever `yield` it stands: the block is left, which cancels the request, and the model is
    free for the next.
    """
    async with stream as events:
        yield ""
        try:
            async for event in events:
                match event:
                    case erllama.TextDelta(text):
                        yield f"data: {json.dumps({'text': text})}\n\n"
                    case erllama.ThinkingDelta(text):
                        yield f"data: {json.dumps({'thinking': text})}\n\n"
                    case erllama.ToolCallEnd(call):
                        called = {"id": call.id, "name": call.name, "arguments": call.arguments}
                        yield f"data: {json.dumps({'tool_call': called, 'problem': call.problem})}\n\n"
                    case erllama.Done(completion):
                        counts = {"finish_reason": completion.finish_reason, "tokens": len(completion.generated)}
                        yield f"data: {json.dumps(counts)}\n\n"
        except erllama.ErllamaError as error:
            yield f"data: {json.dumps(described(error))}\n\n"


if "MODEL_PATH" in os.environ:
    # Four clients at a time, a thousand tokens and more for each; those who come then wait for their turn.
    contexts: erllama.ContextOptsDict = {"n_ctx": 8192, "n_seq_max": 4}
    app = create_app({"model_path": os.environ["MODEL_PATH"], "context_opts": contexts}, os.environ.get("CACHE_PATH"))
