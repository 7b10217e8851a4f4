"""A server as a process: where it listens, how it is told to end, and what a service manager hears of it."""

from erllama_py.serve.running.listening import CannotListen, listen
from erllama_py.serve.running.server import run, serve

__all__ = ["CannotListen", "listen", "run", "serve"]
