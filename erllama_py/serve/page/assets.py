"""The files of the page, as they are sent. They are part of this package and are read once, when routes are made."""

from __future__ import annotations

import hashlib
import html
from importlib.resources import files

import msgspec

MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
_HEAD = b"<head>\n"

# Nothing but these files runs or is shown, no page frames this one, and no script makes markup out of text.
POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
    "base-uri 'self'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
    "trusted-types 'none'",
))  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, and not sent again where it is the same
}


class Asset(msgspec.Struct, frozen=True):
    """One file."""

    body: bytes
    media_type: str
    tag: str
    """What tells its versions apart, as an `ETag`."""


def asset(body: bytes, name: str) -> Asset:
    """A file by its name. Raises `KeyError` for a kind that is not sent."""
    media_type = MEDIA[name[name.rindex(".") :]]
    return Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def load() -> dict[str, Asset]:
    """All files, by their names."""
    folder = files("erllama_py.serve.page") / "static"
    return {one.name: asset(one.read_bytes(), one.name) for one in folder.iterdir() if one.is_file()}


def below(index: Asset, path: str) -> Asset:
    """The page itself where it is served at `path`, percent-encoded, with or without a slash at its end: its addresses
    are below that. At `/` they are relative, since a proxy may have taken a prefix off."""
    prefix = "/".join(part for part in path.split("/") if part)
    if not prefix:
        return index
    base = f'<base href="/{html.escape(prefix)}/">\n'
    return asset(index.body.replace(_HEAD, _HEAD + base.encode(), 1), INDEX)
