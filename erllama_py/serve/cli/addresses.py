"""Where a server is, as a command line says it: a URL, a host and port, or the path of a Unix socket. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx
import msgspec

DEFAULT = "http://127.0.0.1:8080"


class BadAddress(ValueError):
    """A text that names no server; its text is what is shown."""


class Address(msgspec.Struct, frozen=True):
    """One server. `url` has no slash at its end; that of a Unix socket names no host that matters."""

    url: str
    socket: str | None = None

    @property
    def shown(self) -> str:
        """What people call it."""
        return self.socket or self.url

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine, by its name."""
        return self.socket is not None or _is_loopback(urlsplit(self.url).hostname or "")


def parse_address(given: str | None) -> Address:
    """What `--server` means; the default where it is not given. Raises `BadAddress`."""
    text = (given or DEFAULT).strip()
    if "/" in text and "://" not in text and (text.startswith(("/", "./", "../")) or ":" not in text):
        return Address("http://localhost", text)
    url = text if "://" in text else f"http://{'127.0.0.1' if text.startswith(':') else ''}{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
        _ = httpx.URL(url).host  # what has no place in the name of a host
    except (ValueError, httpx.InvalidURL):
        raise BadAddress(f"{text!r} is no URL, such as {DEFAULT}") from None
    if "@" in parts.netloc:  # it is not shown: it may hold a key
        raise BadAddress("a URL with a user in it; the key is given by --key or $ERLLAMA_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadAddress(f"{text!r} is no URL, such as {DEFAULT}, nor the path of a Unix socket")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # listens everywhere: so here, too
    return Address(f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
