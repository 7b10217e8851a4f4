"""Everything that is sent between a parent and its child, and its form as bytes: MessagePack of tagged structs. Pure.

A child has one socket for what concerns all of it, and one more for each engine and each embedder. The bytes of KV
cells are not in the frames where both sides can see the memory that they lie in: a `Slot` says where that is.
"""

from __future__ import annotations

import msgspec

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import ModelFacts
from erllama_py.engine.embedding import EmbedderFacts, EmbedderOpts
from erllama_py.engine.failure import Failure
from erllama_py.engine.jobs import Job, Outcome
from erllama_py.engine.rates import Rates
from erllama_py.options.model import ModelConfig, SchedulerOpts


class BadFrame(Exception):
    """What came is no frame, or was cut: the two sides do not understand each other, and nothing that follows counts.

    Also raised for a frame that cannot be written: of text that has no UTF-8 form, or a number beyond 64 bits.
    """


# --- what any socket carries --------------------------------------------------------------------------------


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Where bytes lie in a segment that sender and receiver share. The sender keeps them there until it is told
    `Released` with this ticket.

    `size` is that of the whole segment where its descriptor comes with the frame, the next of those that do; 0 where
    the receiver has it already.
    """

    ticket: int
    segment: int
    offset: int
    nbytes: int
    size: int = 0


class Released(msgspec.Struct, frozen=True, tag="released"):
    """Nobody on the other side looks at these bytes any more. The segments in `lost` could not be mapped there: their
    descriptors are to be sent again."""

    tickets: list[int]
    lost: list[int] = []


# --- an engine's socket -------------------------------------------------------------------------------------


class Jobs(msgspec.Struct, frozen=True, tag="jobs", omit_defaults=True):
    """Jobs, in their order. `slots` is empty, or has an entry for each that may have a payload: None where its bytes
    are in the job. The segments in `gone` are there no more; whoever has them mapped lets go of them. `total`: how many
    jobs were sent on this socket so far, with these."""

    jobs: list[Job]
    slots: list[Slot | None] = []
    gone: list[int] = []
    total: int = 0


class Outcomes(msgspec.Struct, frozen=True, tag="outcomes", omit_defaults=True):
    """What an engine posts together; `slots`, `gone` and `total` as in `Jobs`. `rates` where something new was
    measured."""

    outcomes: list[Outcome]
    slots: list[Slot | None] = []
    gone: list[int] = []
    rates: Rates | None = None
    total: int = 0


class EndEngine(msgspec.Struct, frozen=True, tag="end"):
    """Down: the engine is to end. Up: it has, and its memory is free; `failure` where it ended by itself."""

    failure: Failure | None = None


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """Have so many buffers of so many bytes in memory."""

    count: int
    nbytes: int


class LoadProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How much of the weights is there, up to 1.0; on the socket of the child, of those that it is to hold."""

    fraction: float


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The engine is ready for jobs."""

    facts: ModelFacts


class ThreadsUsed(msgspec.Struct, frozen=True, tag="threads"):
    """How many threads compute from now on."""

    count: int


# --- the socket of a child ----------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child has come up."""

    pid: int


class StartEngine(msgspec.Struct, frozen=True, tag="start_engine", kw_only=True):
    """Make a backend, over the weights of the engine `weights_of` where that is given, and run an engine with it. In
    `home` is remembered what was tried; without one nothing is. `path` is that of the model's file; `config` has none.

    Comes with two descriptors: the engine's socket, and its recorder's page.
    """

    engine: int
    name: str
    model_id: str
    config: ModelConfig
    scheduler: SchedulerOpts
    threads: ThreadChoice
    path: bytes | None
    weights_of: int | None = None
    home: bytes | None = None


class TryFile(msgspec.Struct, frozen=True, tag="try_file"):
    """Before any engine: load a file as far as that goes without its weights. `given`: what the task `probe_file` is
    given, as JSON, since a path may be no text. Comes with two descriptors: of the pipe for its words, and of that for
    what libraries write. Both end when that is over, and so is the answer, if it does not end the child."""

    given: str


class HoldWeights(msgspec.Struct, frozen=True, tag="hold_weights"):
    """Load the weights of a model and keep them, as those of this engine, which others may name in `weights_of`.
    `path` as in `StartEngine`."""

    engine: int
    model_id: str
    config: ModelConfig
    path: bytes | None


class WeightsHeld(msgspec.Struct, frozen=True, tag="weights_held"):
    """They are there, or could not be had."""

    engine: int
    failure: Failure | None = None


class StartEmbedder(msgspec.Struct, frozen=True, tag="start_embedder", kw_only=True):
    """Make an embedder over the weights of an engine. Comes with two descriptors: its socket, and its recorder's
    page."""

    embedder: int
    engine: int
    model_id: str
    opts: EmbedderOpts


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Answered with `Pong` at once, whatever the engines do."""

    number: int


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The child's main thread runs."""

    number: int


class LogLine(msgspec.Struct, frozen=True, tag="log"):
    """A record for the log of the parent; `logger` is the name of the one that it goes to."""

    logger: str
    level: str
    event: str
    facts: dict[str, str | int | float | bool | None] = {}


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End all engines, free everything, and end."""


# --- an embedder's socket: each call has one answer ---------------------------------------------------------


class LoadEmbedder(msgspec.Struct, frozen=True, tag="embedder_load"):
    """Answered with `EmbedderLoaded` or `Refused`. `number` counts the calls that can be stopped."""

    number: int


class EmbedderLoaded(msgspec.Struct, frozen=True, tag="embedder_loaded"):
    """Comes with the descriptor of the segment that vectors lie in, of `nbytes` bytes, unless that is 0: then they are
    in the answers."""

    facts: EmbedderFacts
    nbytes: int


class Reserve(msgspec.Struct, frozen=True, tag="embedder_reserve"):
    """Answered with `Done` or `Refused`."""

    tokens: int


class EmbedderPart(msgspec.Struct, frozen=True, array_like=True):
    """See `embedding.Part`; the tokens are 32-bit integers in this machine's order."""

    seq_id: int
    start: int
    tokens: bytes
    last: bool


class Compute(msgspec.Struct, frozen=True, tag="embedder_compute"):
    """Answered with `Vectors`, `Done` where it was stopped, or `Refused`. `number` as in `LoadEmbedder`."""

    number: int
    parts: list[EmbedderPart]


class Vectors(msgspec.Struct, frozen=True, tag="embedder_vectors"):
    """So many rows of so many 32-bit floats lie at the beginning of the embedder's segment, or in `data`."""

    rows: int
    width: int
    data: bytes | None = None


class Forget(msgspec.Struct, frozen=True, tag="embedder_forget"):
    """Answered with `Done`."""

    seq_id: int


class Rest(msgspec.Struct, frozen=True, tag="embedder_rest"):
    """Answered with `Done`."""


class AbortEmbedder(msgspec.Struct, frozen=True, tag="embedder_abort"):
    """Stop the call of an embedder that is under way, and those on their way, up to the one of this number. On the
    socket of the child; not answered."""

    embedder: int
    up_to: int


class CloseEmbedder(msgspec.Struct, frozen=True, tag="embedder_close"):
    """Free everything. Answered with `Done`."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is done."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It was not done; why."""

    failure: Failure


Frame = (
    Released
    | Jobs
    | Outcomes
    | EndEngine
    | Warm
    | LoadProgress
    | Loaded
    | ThreadsUsed
    | Ready
    | StartEngine
    | TryFile
    | HoldWeights
    | WeightsHeld
    | StartEmbedder
    | Ping
    | Pong
    | LogLine
    | Stop
    | LoadEmbedder
    | EmbedderLoaded
    | Reserve
    | Compute
    | Vectors
    | Forget
    | Rest
    | AbortEmbedder
    | CloseEmbedder
    | Done
    | Refused
)


def path_of(config: ModelConfig) -> bytes | None:
    """The path of its file as what it is: bytes, which need not be text."""
    return None if config.model_path is None else str(config.model_path).encode("utf-8", "surrogateescape")


def config_of(frame: StartEngine | HoldWeights) -> ModelConfig:
    """The configuration that came in a frame, with the path of its file."""
    return msgspec.structs.replace(
        frame.config, model_path=None if frame.path is None else frame.path.decode("utf-8", "surrogateescape")
    )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame. Raises `BadFrame`."""
    try:
        return _ENCODER.encode(frame)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise BadFrame(f"a {type(frame).__name__} cannot be sent: {error}") from error


def decode(data: bytes) -> Frame:
    """The frame of these bytes. Payloads are views of them. Raises `BadFrame`."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadFrame(f"{len(data)} bytes are no frame: {error}") from error
