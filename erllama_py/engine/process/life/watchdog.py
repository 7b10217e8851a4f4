"""Whether a process that has work gets on with it: a rule, fed with looks from outside. Pure.

A look says what the engine does and how often it has begun something (its beats), whether the process could run at
all, and whether it answers. Only time counts in which it could have got on: not while it waits for a CPU that others
have, or for a disk, nor the time that the watcher itself has missed. One that is in a debugger's hands is left alone.

First it is asked: for an answer, and for what its threads are doing. One that does not answer is ended soon after; one
that answers has that much time once more, for it may only be slow. Its answer comes through an event loop: while that
does not turn, nobody could have heard it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Condition = Literal["running", "held", "stopped", "traced"]
Verdict = Literal["wait", "ask", "kill"]

LOOK_SECONDS = 0.5  # between two looks
MISSED_SECONDS = 3.0  # a watcher that was away for so long has seen nothing of that time
ANSWER_SECONDS = 5.0  # for an answer, of a process that can run
STOPPED_SECONDS = 2.0  # of a process that somebody has stopped while it had work: it may be a moment's matter
MOST_HELD = 20.0  # times the patience: one that always waits for CPU or disk is ended too
AGAIN = 2.0  # times the patience: one that answers and does not get on


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look. `now` is in seconds, of any clock that only grows."""

    now: float
    beats: int
    has_work: bool
    patience: float  # for what is under way, in seconds: see `engine.pace`
    condition: Condition = "running"
    ran: float = 0.0  # of one that was held up: the part of the time in which it had a CPU all the same
    answers: bool = False  # whether it has answered since it was asked last
    hears: bool = True  # whether the event loop has turned since the last look


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen so far. Times are in seconds and begin with the last beat."""

    at: float | None = None
    beats: int = -1
    able: float = 0.0  # in which it could have run
    held: float = 0.0  # in which it could not, for a reason outside
    stopped: float = 0.0  # in which somebody had stopped it, from the first look that has seen it so
    is_stopped: bool = False  # at the last look
    asked_at: float | None = None  # what `able` was
    deaf: float = 0.0  # since then, in which no answer could be heard


def look(watch: Watch, seen: Look) -> tuple[Watch, Verdict]:
    """What is to be done by one more look."""
    passed = 0.0 if watch.at is None else seen.now - watch.at
    if seen.beats != watch.beats or not seen.has_work or seen.condition == "traced":
        return Watch(at=seen.now, beats=seen.beats), "wait"
    if not 0.0 <= passed <= MISSED_SECONDS:
        passed = 0.0
    able, held, stopped, deaf = watch.able, watch.held, 0.0, watch.deaf
    if seen.condition == "stopped":  # at the first look that sees it nobody knows since when
        stopped = watch.stopped + passed if watch.is_stopped else 0.0
    elif seen.condition == "held":
        able, held = able + seen.ran * passed, held + (1.0 - seen.ran) * passed
    else:
        able += passed
        deaf += passed if watch.asked_at is not None and not seen.hears else 0.0
    after = msgspec.structs.replace(
        watch, at=seen.now, able=able, held=held, stopped=stopped, is_stopped=seen.condition == "stopped", deaf=deaf
    )
    return _judged(after, seen)


def _judged(watch: Watch, seen: Look) -> tuple[Watch, Verdict]:
    if watch.stopped >= STOPPED_SECONDS:
        return watch, "kill"
    if watch.held >= MOST_HELD * seen.patience:
        return watch, "kill"
    if watch.able < seen.patience:
        return watch, "wait"
    if watch.asked_at is None:
        return msgspec.structs.replace(watch, asked_at=watch.able), "ask"
    since, more = watch.able - watch.asked_at, AGAIN * seen.patience
    silent = not seen.answers and (since - watch.deaf >= ANSWER_SECONDS or since >= max(more, ANSWER_SECONDS))
    return watch, "kill" if silent or (seen.answers and since >= more) else "wait"


def said(watch: Watch, why: str = "") -> str:
    """Why it is killed, in words; `why` is what it means that it does not get on."""
    if watch.stopped >= STOPPED_SECONDS:
        return f"it was stopped for {watch.stopped:.1f} s while it had work"
    problem = f"it had work and did not get on for {watch.able + watch.held:.1f} s"
    return f"{problem}: {why}" if why else problem
