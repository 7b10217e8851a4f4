"""What is built on the public API alone: an HTTP application, the command line, its demo, and models to try it with.

`create_app` needs the extra `serve`; to import this package does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erllama_py.serve.app import App, create_app
    from erllama_py.serve.core.settings import ServerOpts

__all__ = ["App", "ServerOpts", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from erllama_py.serve import app
        from erllama_py.serve.core.settings import ServerOpts
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed; the server needs: pip install '.[serve]' in a copy of the repository"
        raise ModuleNotFoundError(missing, name=error.name) from error
    return ServerOpts if name == "ServerOpts" else getattr(app, name)
