"""Which requests are to blame where a model crashes again and again. Pure.

    at work in a crash ─▶ 1 strike ─no further than there when it crashes again─▶ 2: suspected ─▶ runs alone, a trial
    further ─▶ 1 again                            a trial: past that place ─▶ cleared     crashes there ─▶ guilty

A crash blames the requests of the operation that crashed, or all that were at work where that is not known. Suspects
run one after the other, and nothing else beside them; so a request that crashes its model costs the others two crashes
at most, and itself three. One that gets further between two crashes is never suspected, however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

STRIKES = 2  # crashes at one place that make a suspect: the first may have come from anywhere


class Place(NamedTuple):
    """How far a request has come. Compared as it stands: tokens of the reply come after all of the prompt."""

    tokens: int  # of its reply
    read: int  # of its prompt


class Record(msgspec.Struct, frozen=True):
    """What is held against a request: where it was in its last crash, and in how many it was there."""

    place: Place
    strikes: int


class Suspects(msgspec.Struct, frozen=True):
    """What is known. `trial` is the request that runs alone now."""

    records: Mapping[int, Record] = {}
    trial: int | None = None

    @property
    def suspected(self) -> list[int]:
        """Those that run alone, in this order."""
        return sorted(request_id for request_id, record in self.records.items() if record.strikes >= STRIKES)


def after_crash(suspects: Suspects, blamed: Mapping[int, Place]) -> tuple[Suspects, int | None]:
    """What is known after a crash, and the request that is guilty. A trial in which another was at work is void."""
    records, guilty = dict(suspects.records), None
    for request_id, place in blamed.items():
        before = records.get(request_id)
        further = before is None or place > before.place
        records[request_id] = Record(place, 1 if further or before is None else before.strikes + 1)
        if request_id == suspects.trial and not further:
            guilty = request_id
    if guilty is not None:
        del records[guilty]
    return Suspects(records), guilty


def next_trial(suspects: Suspects) -> Suspects:
    """The next suspect runs alone, if none does."""
    if suspects.trial is not None or not (suspected := suspects.suspected):
        return suspects
    return Suspects(suspects.records, suspected[0])


def may_run(suspects: Suspects, request_id: int) -> bool:
    """Whether a request may be worked on now."""
    return suspects.trial == request_id or (suspects.trial is None and not suspects.suspected)


def has_passed(suspects: Suspects, place: Place) -> bool:
    """Whether the request on trial, which has come to `place`, has passed where it crashed."""
    record = None if suspects.trial is None else suspects.records.get(suspects.trial)
    return record is not None and place > record.place


def without(suspects: Suspects, request_id: int) -> Suspects:
    """Nothing is held against a request any more: it has passed, or it is over."""
    records = {other: record for other, record in suspects.records.items() if other != request_id}
    return Suspects(records, None if suspects.trial == request_id else suspects.trial)
