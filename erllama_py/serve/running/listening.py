"""The socket of a server: taken before anything is loaded, so that a port that is taken costs no minutes."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts
from erllama_py.serve.config import check_listening
from erllama_py.serve.core.settings import ListenOpts


class CannotListen(erllama.ErllamaError):
    """The server cannot listen where it is to."""

    place: str
    problem: str

    text = "cannot listen on {place}: {problem}"


@contextmanager
def listen(options: ListenOpts, access: AccessOpts) -> Iterator[socket.socket]:
    """A bound socket, closed at the end. Raises `InsecureHost`, `TlsUnusable`, `CannotListen`. It blocks on names."""
    check_listening(options, access)
    bound = _bound(options.host, options.port) if options.uds is None else _bound_file(options.uds)
    try:
        yield bound
    finally:
        bound.close()
        if options.uds is not None:
            with suppress(OSError):
                os.unlink(options.uds)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            return bound
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"{host} port {port}", _reason(error)) from error


def _bound_file(path: str) -> socket.socket:
    """A Unix socket that its owner and group may use. One that nobody listens on any more is replaced."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            os.unlink(path)
        bound.bind(path)
        os.chmod(path, 0o660)
        return bound
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        bound.close()
        raise CannotListen(path, _reason(error)) from error


def _is_stale(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def url_of(options: ListenOpts, listening: socket.socket) -> str:
    """Where clients find the server; of one on a Unix socket the path."""
    if options.uds is not None:
        return options.uds
    scheme = "http" if options.tls_cert is None else "https"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{scheme}://{host}:{listening.getsockname()[1]}"
