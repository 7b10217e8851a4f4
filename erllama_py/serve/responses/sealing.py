"""Texts that clients keep for the server, which cannot be forged: what `encrypted_content` holds here. Pure.

    version (1 byte) · HMAC-SHA256 (32 bytes) of the kind, the tenant and the rest · the text, by zlib

That is then base64 for URLs. They are signed and not encrypted: the client has seen the text, or could have. A seal
holds for one tenant and one kind of text, under the server's key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib

KEY_BYTES = 32
VERSION = b"\x01"


class BadSeal(Exception):
    """It was not sealed by this server, not for this tenant, or was changed since."""


def seal(key: bytes, kind: str, tenant: str, text: str) -> str:
    """A text as a client may keep it."""
    body = zlib.compress(text.encode("utf-8", "surrogatepass"))
    return base64.urlsafe_b64encode(VERSION + _signature(key, kind, tenant, body) + body).decode()


def unseal(key: bytes, kind: str, tenant: str, sealed: str) -> str:
    """The text. Raises `BadSeal`."""
    try:
        packed = base64.b64decode(sealed, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadSeal from None
    signature, body = packed[1:33], packed[33:]
    if packed[:1] != VERSION or not hmac.compare_digest(signature, _signature(key, kind, tenant, body)):
        raise BadSeal
    return zlib.decompress(body).decode("utf-8", "surrogatepass")  # it is the server's own


def _signature(key: bytes, kind: str, tenant: str, body: bytes) -> bytes:
    head = VERSION + "\0".join((kind, tenant)).encode() + b"\0"
    return hmac.digest(key, head + body, hashlib.sha256)
