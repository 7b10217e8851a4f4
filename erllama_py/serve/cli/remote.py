"""A running server, as commands ask it: over HTTP or a Unix socket, with an API key that is shown nowhere.

What goes wrong is one sentence with what to do. Every call blocks, and ends after a time of its own.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import httpx
import msgspec
from cyclopts import Parameter

import erllama_py as erllama
from erllama_py.serve.cli.addresses import Address, BadAddress, parse_address
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.screen import one_line

SECONDS = 30.0  # until an answer begins, or goes on
CONNECT_SECONDS = 5.0
SHOWN = 300  # characters of what a server says
ELSEWHERE = "`erllama serve` starts a server, --server or $ERLLAMA_SERVER names another one"
MOST_BYTES = 64 << 20  # of an answer that is read whole: a listing, not a model

Server = Annotated[
    str | None,
    Parameter(env_var="ERLLAMA_SERVER", help="The URL of the server, or the path of its Unix socket. "
              "[default: http://127.0.0.1:8080]"),
]  # fmt: skip
Key = Annotated[
    str | None,
    Parameter(env_var="ERLLAMA_API_KEY", help="An API key of the server. In the environment variable no other user of "
              "the machine can see it."),
]  # fmt: skip

Shape = TypeVar("Shape")


class ServerUnreachable(erllama.ErllamaError):
    """No server answers where one was asked, or not in time."""

    server: str
    problem: str

    text = "no answer from {server}: {problem}"


class ServerRefused(erllama.ErllamaError):
    """The server answers, and does not do what was asked."""

    server: str
    status: int
    problem: str
    code: str | None = None

    text = "{server}: {problem}"


class Remote:
    """One server. Paths begin with a slash."""

    def __init__(self, client: httpx.Client, address: Address, *, has_key: bool) -> None:
        self._client, self._socket = client, address.socket
        self.has_key = has_key
        self.name = address.shown
        """What people call it."""

    def get(self, path: str, **query: str | int | float) -> Any:
        """The JSON that `path` answers with."""
        return self.json("GET", path, params=query or None)

    def text(self, path: str) -> str:
        """The text that `path` answers with."""
        return self._read("GET", path, {}).decode("utf-8", "replace")

    def post(self, path: str, body: object = None) -> Any:
        """The JSON that comes back for a body, which is any value that msgspec encodes."""
        return self.json("POST", path, **_as_json({} if body is None else body))

    def json(self, method: str, path: str, **given: Any) -> Any:
        """The same of any request; `given` is what `httpx.Client.build_request` takes, such as `files`."""
        return self._decoded(self._read(method, path, given))

    def shaped(self, told: object, shape: type[Shape]) -> Shape:
        """An answer as what it has to be. Raises `ServerRefused`: a stranger answers with JSON, too."""
        try:
            return msgspec.convert(told, shape)
        except msgspec.ValidationError:
            raise self.stranger() from None

    def stranger(self) -> ServerRefused:
        """What answers is something else."""
        return ServerRefused(self.name, 200, "what answers there is no server of erllama")

    def lines(self, method: str, path: str, body: object = None, *, timeout: float = SECONDS) -> Iterator[Any]:
        """The objects of an answer in NDJSON, as they come."""
        given = {} if body is None else _as_json(body)
        with self.stream(method, path, timeout=timeout, **given) as response:
            for line in response.iter_lines():
                if line:
                    yield self._decoded(line.encode())

    @contextmanager
    def stream(self, method: str, path: str, *, timeout: float = SECONDS, **given: Any) -> Iterator[httpx.Response]:
        """A response whose body is read piece by piece; its status is 2xx. What breaks off later raises too."""
        self._check_socket()
        try:
            limits = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
            with self._client.stream(method, path, timeout=limits, **given) as response:
                if not response.is_success:
                    raise refusal(self, path, response.status_code, _first_bytes(response))
                yield response
        except httpx.HTTPError as error:
            raise ServerUnreachable(self.name, problem_of(error, timeout)) from None

    def _read(self, method: str, path: str, given: Mapping[str, Any]) -> bytes:
        with self.stream(method, path, **given) as response:
            found = bytearray()
            for piece in response.iter_bytes():
                found += piece
                if len(found) > MOST_BYTES:
                    raise ServerRefused(self.name, response.status_code, "its answer does not end")
            return bytes(found)

    def _check_socket(self) -> None:
        """Whether somebody listens on a Unix socket: httpcore leaves its own open where it cannot connect."""
        if self._socket is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
                tried.settimeout(CONNECT_SECONDS)
                try:
                    tried.connect(self._socket)
                except OSError as error:
                    raise ServerUnreachable(self.name, f"{error.strerror or error}; {ELSEWHERE}") from None

    def _decoded(self, data: bytes) -> Any:
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self.stranger() from None


@contextmanager
def reached(server: str | None = None, key: str | None = None) -> Iterator[Remote]:
    """The server that a command line names, or the default one. Nothing is sent yet. Raises `UsageError`."""
    address, options = _address(server), client_options(server, key)
    try:
        client = httpx.Client(**options)
    except (httpx.InvalidURL, ImportError, ValueError) as error:  # the address is fine by now
        proxies = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY; NO_PROXY names the hosts that need none"
        raise UsageError(f"a proxy of the environment cannot be used: {one_line(str(error))} ({proxies})") from None
    with client:
        yield Remote(client, address, has_key=bool(key))


def client_options(
    server: str | None, key: str | None, *, seconds: float = SECONDS, asynchronous: bool = False
) -> dict[str, Any]:
    """What a client of httpx is made with. Raises `UsageError`."""
    address = _address(server)
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UsageError("--key: an API key is letters, digits and signs, without spaces")
    over = httpx.AsyncHTTPTransport if asynchronous else httpx.HTTPTransport
    return {
        "base_url": address.url,
        "transport": None if address.socket is None else over(uds=address.socket),
        "timeout": httpx.Timeout(seconds, connect=CONNECT_SECONDS),
        "headers": {"authorization": f"Bearer {key}"} if key else {},
        "trust_env": not address.is_here,  # no proxy stands between a machine and itself
        "verify": ssl.create_default_context() if address.url.startswith("https") else True,
    }


def refusal(remote: Remote, path: str, status: int, body: bytes) -> ServerRefused:
    """What a server's error comes to."""
    said, code = message_of(body)
    return ServerRefused(remote.name, status, refused(path, status, said, code, has_key=remote.has_key), code)


def _address(server: str | None) -> Address:
    try:
        # A shell leaves the ~ of --server=~/a.sock as it is.
        return parse_address(os.path.expanduser(server) if server is not None else None)
    except BadAddress as error:
        raise UsageError(f"--server: {error}") from None


def _as_json(body: object) -> dict[str, Any]:
    return {"content": msgspec.json.encode(body), "headers": {"content-type": "application/json"}}


def _first_bytes(response: httpx.Response) -> bytes:
    found = b""
    for piece in response.iter_bytes():
        found += piece
        if len(found) > 1 << 16:
            break
    return found


# --- what is said, pure ------------------------------------------------------------------------------------------


def message_of(body: bytes) -> tuple[str, str | None]:
    """The message and the code of an error in any API's shape; empty where there is none."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", None
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, str):
        return error, None
    if not isinstance(error, dict):
        return "", None
    message, code = error.get("message"), error.get("code")
    return message if isinstance(message, str) else "", code if isinstance(code, str) else None


def refused(path: str, status: int, said: str, code: str | None, *, has_key: bool) -> str:
    """Why a server did not do it, and what to do."""
    said = one_line(said)[:SHOWN]
    if status == 401:
        return "it does not know this key" if has_key else "it wants a key: --key, or $ERLLAMA_API_KEY"
    if status == 403 and code == "operators_only":
        if has_key:
            return "this is for operators: the key needs operator = true in the server's configuration"
        return "this is for operators: use an operator's --key, or ask from the machine of the server"
    if status == 404 and code in ("unknown_endpoint", None):
        return f"it does not serve {path}: it is older than this command, or no server of erllama"
    return said or f"it answers {status}, and does not say why"


def problem_of(error: httpx.HTTPError, seconds: float = SECONDS) -> str:
    """Why nothing came, and what to do."""
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"nothing came for {seconds:g} s"
    cause = _ssl_error(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = one_line(cause.verify_message)
        return f"its certificate is not trusted ({why}); SSL_CERT_FILE=FILE names the one of its authority"
    if cause is not None:
        return f"TLS fails ({one_line(cause.reason or str(cause))}); a server without a certificate is named by http://"
    if isinstance(error, httpx.ConnectError):
        return f"{re.sub(r'^.Errno -?[0-9]+. ', '', one_line(str(error)))[:SHOWN]}; {ELSEWHERE}"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the connection was closed, or what came is no HTTP; a server with a certificate is named by https://"
    return one_line(str(error))[:SHOWN] or type(error).__name__


def _ssl_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error that another one came of."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
