"""Where a request comes from, and by which name it asks.

A web page can make a browser ask `http://127.0.0.1:8080` under a name of its own (DNS rebinding): so what comes over
loopback must have asked for this machine by a name that is known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

# What proxies and tunnels put to a request that they pass on, beside `X-Forwarded-…`.
PASSED_ON = frozenset(("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"))


def is_loopback(host: str | None) -> bool:
    """Whether an address, or a name, is this machine's own and no other can use it."""
    if not host:
        return False
    name = host.lower().rstrip(".").removeprefix("[").removesuffix("]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_passed_on(headers: Iterable[str]) -> bool:
    """Whether a proxy has left its mark among the names of a request's headers, which are in lower case: then it comes
    from elsewhere, whatever its address."""
    return any(name in PASSED_ON or name.startswith("x-forwarded-") for name in headers)


def exposure_problem(host: str, *, keys: bool, insecure: bool) -> str | None:
    """Why a server may not listen on `host`; None where it may."""
    if keys or insecure or is_loopback(host):
        return None
    return f"without keys only this machine is served, and {host!r} is for others too: give keys, or say insecure"


def host_of(header: str) -> str:
    """The name in a Host header, without its port; "" where it is none."""
    name = header.strip().lower()
    if name.startswith("["):
        inside, bracket, port = name[1:].partition("]")
        return inside if bracket and (not port or port[0] == ":") else ""
    name, _, port = name.partition(":")
    return "" if port and not port.isdigit() else name.rstrip(".")


def host_problem(header: str, allowed: Sequence[str]) -> str | None:
    """Why a request over loopback may not ask by this name; None where it may."""
    name = host_of(header)
    if is_loopback(name) or any(_fits(name, one.lower().strip("[]")) for one in allowed):
        return None
    return f"the server is not known as {name[:80]!r} here: allowed_hosts names those that it is"


def _fits(name: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
