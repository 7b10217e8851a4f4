"""What a server may be told: the bounds of what it takes, and its times."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from erllama_py.serve.core.amounts import KeepAlive

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class ServerOpts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an application serves, whatever models are behind it. Sizes are in bytes, times in seconds."""

    max_body_bytes: Positive = 8 << 20
    """Longest body of a request. It is parsed on the event loop, which takes about 2 ms for a megabyte. In it are
    at most 131,072 texts, names, lists and objects and 300,000 values, else its request gets 413 too."""
    body_seconds: Seconds = 60.0
    """A body has come after so long, or its request gets 408."""
    max_messages: Positive = 4096
    """Most messages of a conversation."""
    max_open: Positive = 512
    """Requests that are open at a time, streams among them; the next one gets 429. One key has at most three quarters
    of them, and of what others have left."""
    response_tokens: Positive | None = None
    """Most tokens of a reply to a request that does not say; `None`: 8,192. The context bounds it, too."""
    max_response_tokens: Positive | None = None
    """Most tokens that a request may ask for: more count as these; `None`: no bound but the context."""
    max_stored_responses: Positive = 4096
    """Most answers of `/v1/responses` that are stored for a tenant; those that were longest unused go first."""
    max_stored_bytes: Positive = 64 << 20
    """What these may take. The first bound that is reached counts."""
    max_file_bytes: Positive = 200 << 20
    """Longest file of `/v1/files`. It goes to the disk as it comes."""
    max_files: Positive = 1024
    """Most files that are kept for a tenant; then no other is taken."""
    max_files_bytes: Positive = 2 << 30
    """What these may take. What batches leave counts, and is kept in any case."""
    max_batches: Positive = 1024
    """Most batches that are known of a tenant; the oldest of those that are over are forgotten."""
    max_batch_lines: Positive = 50_000
    """Most lines of a batch."""
    batch_concurrency: Positive = 8
    """Lines of batches that are computed side by side, those of all batches together; at most half of `max_open`."""
    deadline_seconds: Seconds | None = None
    """After so long a request ends with what it has."""
    images: Literal["refuse", "note"] = "refuse"
    """What becomes of an image in a conversation, which no model here can see: the request is refused, or the model
    reads a note in its place, so that an agent that sends one goes on."""
    heartbeat_seconds: Seconds = 15.0
    """Where nothing came for so long, a stream says that it lives, in the APIs whose streams have comments."""
    send_seconds: Seconds = 60.0
    """A client that has not read from its stream for so long has gone."""
    page: bool = True
    """Whether browsers get the page at `/`."""
    drills: bool = True
    """Whether operators may crash a model on purpose, to see it come back."""
    resume_seconds: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 300.0
    """A stream whose request has the header `X-Conversation-Id` goes on for so long when nobody reads it, and can be
    taken up again; 0: none can. A client that takes it up, and is behind for so long, has gone."""
    max_resumable: Positive = 32
    """Streams of a tenant that can be taken up again. One more takes the place of one that nobody reads, those that are
    over first, else its request gets 429."""
    resume_bytes: Positive = 4 << 20
    """What is kept of one such stream. A reply that outgrows it while nobody reads ends: nobody could have it whole."""
    max_resume_bytes: Positive = 64 << 20
    """What is kept of all of them. Beyond that those that nobody reads go, those that are over first."""
    max_websockets: Positive = 256
    """WebSockets of `/v1/responses` that are open at a time; the next one gets 429. They are shared as `max_open` is. A
    message is as long as a body."""
    websocket_idle_seconds: Seconds = 600.0
    """One on which no turn was asked for so long is closed."""
    drain_seconds: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 30.0
    """How long open requests may go on when the server is told to end; then they end with what they have."""
    memory_budget_bytes: Positive | None = None
    """What models, tiers in memory and buffers may take together: models that nobody uses are unloaded for others.
    `None`: nine tenths of the memory that is free at the start, where a model is loaded on demand; else no bound."""
    keep_alive: KeepAlive = "5m"
    """How long a model that is loaded on demand stays without a request, unless its own `keep_alive` says: seconds, or
    a time such as `"1h30m"`; 0: not at all; -1 or `"forever"`: without end."""
    isolation: Literal["thread", "process"] | None = None
    """Where the engines of models run whose own tables do not say: on threads of the server, or each in a process of
    its own, so that a crash of native code costs its model alone; `None`: in processes on Linux, else on threads."""
    spare: bool = False
    """Keep a second process ready for each model in a process, unless its own table says, so that coming back after a
    crash costs no load."""
    model_wait_seconds: Seconds = 600.0
    """How long a request waits until its model is loaded; then it gets 503."""

    @property
    def wait_seconds(self) -> float:
        """How long a request waits for its model: no longer than it may take at all."""
        return min(self.model_wait_seconds, self.deadline_seconds or self.model_wait_seconds)


class ListenOpts(ServerOpts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a server of its own listens, and the bounds of what it reads there. An application that is mounted in
    another one listens where that does."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    """The address that it listens on: a name, an IPv4 or IPv6 address."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    """The port; 0 takes one that is free."""
    responses_directory: Annotated[str, Meta(min_length=1)] | None = None
    """Where stored answers of `/v1/responses` outlive the process; `None`: in memory."""
    files_directory: Annotated[str, Meta(min_length=1)] | None = None
    """Where files and batches outlive the process; `None`: in a temporary directory, which ends with it."""
    uds: Annotated[str, Meta(min_length=1, max_length=107)] | None = None
    """The path of a Unix socket to listen on in place of a port, for its owner and group."""
    tls_cert: str | None = None
    """A file in PEM format with the certificate, and those between it and its authority: HTTPS in place of HTTP."""
    tls_key: str | None = None
    """The file of its private key, where that is not in the same one."""
    tls_key_password: str | None = None
    """What opens the private key."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose word of where a request comes from counts (`X-Forwarded-For`,
    `X-Forwarded-Proto`)."""
    root_path: Annotated[str, Meta(pattern="^(/.*[^/])?$")] = ""
    """The prefix under which a proxy serves it, such as `/llm`."""
    max_head_bytes: Positive = 64 << 10
    """Longest head of a request, its headers included; a longer one gets 431."""
    head_seconds: Seconds = 20.0
    """A connection whose request has not begun and told its headers after so long is closed."""
    keep_alive_seconds: Annotated[int, Meta(ge=0, le=86_400)] = 75
    """A connection that is not used for so long is closed."""
    max_connections: Positive = 2048
    """Connections that are open at a time; another one is closed at once."""
