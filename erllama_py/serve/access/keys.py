"""API keys: made at random, kept as hashes, compared in the same time whichever fits.

A key has 256 random bits, so one round of SHA-256 is enough: there is nothing to guess that a slower hash would
protect, and a slow one would let everybody keep the event loop busy with wrong keys. For the same reason there are no
keys that people choose.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence

from erllama_py.serve.access.settings import KeyOpts

PREFIX = "erl_"  # so that scanners of repositories can know one
MOST = 512  # characters of what is presented; more is no key of ours, and is not hashed
SALT_TAG = b"erllama tenant v1\0"


def make_key() -> tuple[str, str]:
    """A new key, to be given to its user and kept nowhere, and its hash for the configuration."""
    key = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """What a configuration holds of a key: `sha256:` and 64 hex digits."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def find_key(presented: str, keys: Sequence[KeyOpts]) -> KeyOpts | None:
    """The entry of a presented key. The time that it takes says nothing of the entries: all are compared."""
    if len(presented) > MOST:
        return None
    digest, found = hash_key(presented).encode(), None
    for entry in keys:
        if hmac.compare_digest(digest, entry.hash.encode()):
            found = entry
    return found


def presented_keys(headers: Mapping[str, str]) -> Iterator[str]:
    """What a request presents as keys: `Authorization: Bearer …`, then `x-api-key`. Some clients send both."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and (value := value.strip()):
        yield value
    if value := headers.get("x-api-key", "").strip():
        yield value


def salt_of(entry: KeyOpts, secret: str | None) -> str:
    """What keeps the cache of a key's tenant apart: its own, or made of the server's secret and the key's name.

    Without a secret the hash of the key stands for it, which nobody else knows either.
    """
    if entry.salt is not None:
        return entry.salt
    return hmac.new((secret or entry.hash).encode(), SALT_TAG + entry.name.encode(), "sha256").hexdigest()


def check_keys(keys: Iterable[KeyOpts]) -> tuple[str, str] | None:
    """Why keys cannot stand side by side: the place in the list, and what is wrong there; None where they can."""
    hashes, names = dict[str, int](), dict[str, KeyOpts]()
    for index, entry in enumerate(keys):
        if (other := hashes.setdefault(entry.hash, index)) != index:
            return f"keys[{index}].hash", f"it is that of keys[{other}]"
        first = names.setdefault(entry.name, entry)
        for field in ("requests_per_minute", "tokens_per_minute", "tokens_per_day"):
            if getattr(first, field) != getattr(entry, field):
                return f"keys[{index}].{field}", f"keys of one name, here {entry.name!r}, have one budget"
    return None
