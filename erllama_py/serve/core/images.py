"""Images in conversations, which no model here can see: refused, or told to the model in words."""

from __future__ import annotations

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.settings import ServerOpts

NOTE = "[Here was an image, which you cannot see.]"


def image_text(settings: ServerOpts, param: str) -> str:
    """What the model reads in place of the image at `param`. Raises `Problem` where images are refused."""
    if settings.images == "note":
        return NOTE
    message = "this model cannot see images; take them out of the conversation"
    raise Problem("invalid", message, param=param, code="image_not_supported")
