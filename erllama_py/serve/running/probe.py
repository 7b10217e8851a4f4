"""`python -m erllama_py.serve.running.probe [URL]` ends with 0 where a server is ready, for a container's health check.

The URL may be a Unix socket's path; by default it is that of a server with the default settings.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from urllib.parse import urlsplit

DEFAULT = "http://127.0.0.1:8080"
SECONDS = 5.0


class _OverFile(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    if url.startswith("/"):
        return _OverFile(url), ""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port
    if parts.scheme == "https":
        # It asks its own machine whether it is ready; whose certificate it is does not matter to that.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context), parts.path.rstrip("/")
    return http.client.HTTPConnection(host, port, timeout=SECONDS), parts.path.rstrip("/")


def probe(url: str = DEFAULT) -> tuple[bool, str]:
    """Whether the server at `url` is ready, and what it says. It blocks, at most some seconds."""
    try:
        connection, prefix = _connection(url)
        try:
            connection.request("GET", f"{prefix}/health")
            answer = connection.getresponse()
            told = json.loads(answer.read(1 << 16))
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return False, f"no answer: {error}"
    said = told if isinstance(told, dict) else {}
    return answer.status == 200, str(said.get("reason") or said.get("status") or answer.status)


def main(arguments: list[str]) -> int:
    """0 where it is ready, else 1."""
    fine, said = probe(*arguments[:1])
    print(said, file=sys.stdout if fine else sys.stderr)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
