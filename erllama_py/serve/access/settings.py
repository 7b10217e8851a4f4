"""Who may use a server, and from where: its keys, its names, the pages of browsers that may call it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.@-]+$")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Salt = Annotated[str, Meta(min_length=1, max_length=256)]
Most = Annotated[int, Meta(ge=1, le=1 << 53)]
Host = Annotated[str, Meta(min_length=1, max_length=255)]


class KeyOpts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One API key, and whose it is."""

    name: Name
    """Whose it is, for the log, the metrics and the salt: keys of one name are one tenant, with one budget."""
    hash: Digest
    """`sha256:` and the digest of the key, as `make_key` gives it; the key itself is kept by who uses it."""
    salt: Salt | None = None
    """Keeps what is cached for it apart from others; by default made of the server's secret and the name."""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Of its requests: higher ones go first."""
    requests_per_minute: Most | None = None
    """Requests that it may make in a minute; `None`: no bound."""
    tokens_per_minute: Most | None = None
    """Tokens that may be computed and generated for it in a minute; `None`: no bound."""
    tokens_per_day: Most | None = None
    """The same of a day."""
    models: tuple[str, ...] | None = None
    """Names or aliases of the models that it may use; `None`: all."""
    operator: bool = False
    """Whether it may see what all tenants together do: metrics, the tree, the cache; and remove what is cached."""


class AccessOpts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may use a server, and from where. Without keys only this machine is served."""

    keys: tuple[KeyOpts, ...] = ()
    """The API keys; a request needs one of them as soon as there is one."""
    secret: Salt | None = None
    """What the salts of keys are made of. Without it they are made of the keys' hashes: a new key then begins with
    nothing cached."""
    insecure: bool = False
    """Serve other machines without any key, by any name."""
    allowed_hosts: tuple[Host, ...] = ()
    """Names other than `localhost` by which this machine may be asked over its own loopback, such as that of a proxy;
    `*` for any, `*.example.com` for all below one."""
    origins: tuple[Host, ...] = ()
    """Origins of web pages that may call the server, such as `https://chat.example.com`; `*` for any."""
