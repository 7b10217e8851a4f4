"""How the endpoints for operators say what is wrong, and what they leave out of their answers."""

from __future__ import annotations

import re
from typing import Any

from erllama_py.serve.core.api import Api
from erllama_py.serve.core.problems import Problem

TEXT = "text/plain"

# A path in running text: all but its last part is left out.
_FOLDERS = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"`,;:()<>]+)*[/\\](?=[^\s/\\'\"`,;:()<>])")


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """An error with its kind, for programs, and a sentence."""
    said = {"kind": problem.kind, "message": problem.message, "code": problem.code}
    return {"error": said, "request_id": request_id}


API = Api("operations", error_body)


def without_folders(text: str) -> str:
    """A text whose paths of files have only their last part."""
    return _FOLDERS.sub("", text)


def prefers_text(accept: str) -> bool:
    """Whether an `Accept` header names plain text, or a browser's page, before JSON; without one it is JSON."""
    found: dict[bool, float] = {}
    for one in accept.split(","):
        media, *params = (part.strip().lower() for part in one.split(";"))
        weight = next((param[2:] for param in params if param.startswith("q=")), "1")
        if media in ("text/plain", "text/*", "text/html", "application/json", "application/*"):
            is_text = media.startswith("text/")
            found[is_text] = max(found.get(is_text, 0.0), _weight(weight))
    return found.get(True, 0.0) > found.get(False, 0.0)


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0
