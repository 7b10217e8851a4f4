"""What a try in a child came to, in words. Pure."""

from __future__ import annotations

import msgspec

from erllama_py.engine.children.codes import DONE, REFUSED, WRONG
from erllama_py.engine.children.ended import Ended
from erllama_py.engine.no_memory import says_no_memory
from erllama_py.errors import ModelLoadError, UnsupportedModel

REPAIR = (
    '. Install a portable build: CMAKE_ARGS="-DGGML_NATIVE=OFF" pip install --force-reinstall --no-cache-dir --no-deps '
    '--no-binary llama-cpp-python "llama-cpp-python=={version}"; in a checkout, PORTABLE=1 make run'
)
# Signals by which a library ends its own process. Others come from outside, and say nothing of what was tried.
_OWN_SIGNALS = {"SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"}
# Those that nothing but an instruction raises: not memory that is short, as others may be.
_TRAPS = {"SIGILL", "SIGFPE", "SIGTRAP"}
_STAGES = {
    "library": "while its library is opened",
    "load": "while it reads the file",
    "vocabulary": "while it tokenizes texts",
    "graph": "while it makes a context",
    "end": "while it frees the model",
    "decode": "while it decodes",
}


class Bounds(msgspec.Struct, frozen=True):
    """What a child may take: seconds in all, seconds of CPU time for the texts, bytes of memory."""

    seconds: float = 60.0  # a vocabulary of 262,144 tokens takes 0.4 s, a cold network disk some seconds more
    text_seconds: float = 5.0  # for some hundred short texts, which take 0.02 s
    memory: int = 4 << 30  # where 262,144 tokens take 0.3 GiB


def build_problem(ended: Ended) -> str | None:
    """What is wrong with a build; None where nothing is, or where it was ended from outside or by time."""
    if ended.how == "ended":
        return {WRONG: "it computes wrong numbers", REFUSED: f"it does not load a sound model: {ended.last_words}"}.get(
            ended.code or 0
        )
    if ended.how != "crashed" or (ended.signal is not None and ended.signal not in _OWN_SIGNALS):
        return None
    words = f": {ended.last_words}" if ended.signal == "SIGABRT" else ""
    return f"{ended.signal or 'it'} ended llama.cpp on this CPU{_stage(ended)}{words}"


def is_lasting(ended: Ended) -> bool:
    """Whether a try of a build would end like this again, whatever else is the case on this machine: only then is it
    remembered. A code that was lost may be that of a child that somebody killed."""
    if ended.how == "ended":
        return ended.code in (DONE, WRONG)
    return ended.how == "crashed" and ended.signal in _TRAPS


def passes(ended: Ended) -> bool:
    """Whether a file can be loaded here, as far as a child knows. One that was refused for want of memory cannot: here
    it would get all there is."""
    return ended.how == "ended" and ended.code != WRONG and not (ended.code == REFUSED and _lacked_memory(ended))


def file_error(path: str, ended: Ended, fault: str | None, bounds: Bounds) -> ModelLoadError:
    """Why a file is refused that ended the process in which it was tried first, or was not done in time."""
    if ended.how == "out of time":
        problem = f"tried in a process of its own first, it was not done in {bounds.seconds:.0f} s{_stage(ended)}"
        return UnsupportedModel(path, f"{problem}; `probe=False` loads it without")
    if ended.signal == "SIGPROF":  # of the child's own timer
        endless = f"some short texts take its tokenizer more than {bounds.text_seconds:g} s of CPU time"
        return UnsupportedModel(path, f"{fault or endless} (llama.cpp would go on, maybe for ever)")
    if ended.how == "ended" and ended.code == WRONG:
        return UnsupportedModel(path, ended.last_words)
    if ended.most_bytes is not None and (ended.no_memory or says_no_memory(ended.written)):
        limit = f"out of memory, of the limit of its process ({ended.most_bytes >> 20} MiB)"
        return ModelLoadError(path, f"{limit}{_stage(ended)}" + (f": {ended.last_words}" if ended.last_words else ""))
    if _lacked_memory(ended):
        problem = (
            f"tried in a process of its own first, it takes more than {bounds.memory / 2**30:.1f} GiB{_stage(ended)}"
        )
        return UnsupportedModel(path, f"{fault or problem}; `probe=False` loads it without")
    if ended.signal is not None and ended.signal not in _OWN_SIGNALS:
        problem = f"the process in which it was tried first was ended from outside by {ended.signal}"
        return ModelLoadError(path, f"{problem}{_stage(ended)}, as where memory runs out")
    words = ended.last_words or "no last words"
    if fault is not None:
        return UnsupportedModel(path, f"{fault} (llama.cpp would end the process: {words})")
    ended_by = f"llama.cpp ends the process ({ended.signal or 'without a word'}){_stage(ended)}"
    return UnsupportedModel(path, f"{ended_by}: {words}")


def _lacked_memory(ended: Ended) -> bool:
    return "bad_alloc" in ended.written or "MemoryError" in ended.written


def _stage(ended: Ended) -> str:
    stage = _STAGES.get(ended.stages[-1]) if ended.stages else None
    return f" {stage}" if stage else ""
