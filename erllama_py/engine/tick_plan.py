"""Which tokens go into the next decode: a pure function over what each sequence still has to do.

The laws of a plan, each a property that is tested:

- **Streams first.** Every decode row is in, before any prompt. Were there more than `n_batch` of them, those that
  waited longest go, so with at most twice as many none waits for more than one tick.
- **Forced tokens go with their row.** What a structure has added to a stream's next token takes of the room that
  prompts would have: all of it, or half where prompts wait. What does not fit follows in the next ticks.
- **Prompts take what is left**, and while anyone is decoding at most `chunk` tokens in total, none if that is 0. Alone,
  a prompt has the whole batch. Where rows and chunk leave room, the first prompt in line always gets a slice.
- **The line** is: prompts that have waited `PATIENCE` ticks for each competing prompt (longest first), then the higher
  priority, then the earlier. So budgets follow priorities, and none starves: with at most `n_batch` needs, so that
  rows leave room for one prompt token, of `n` prompts each is served after `PATIENCE * n + n` ticks.
- **Slices are as large as the room.** Where that is a micro-batch or more, they end on multiples of it, so that a
  prompt is cut at the same positions whatever went before: a reuse, other prompts, rows. Below, nothing is gained by
  a grid: what a chunk was measured to hold is never the same twice, and the grid would leave up to half of it empty.
- **One prompt is finished before the next.** What the first in line leaves goes to those after it if they end with
  it, or if it is a quarter of what prompts had: tiny slices would keep a prompt at the end of the line for good, since
  one that gets a slice no longer counts as waiting.
- **The background costs the others an eighth.** What is of the lowest priority is planned as all else is while nothing
  else has tokens to decode. Beside others, which are planned as if it were not there, it gets one token for eight of
  theirs: each of `n` in the background a token for `8 * n`, prompts in slices of `SLICE`.
- **The background goes on.** Where others' prompts, or forced tokens, fill decode after decode, they leave one of eight
  to it at most, with the rows of others and no more than it has waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from erllama_py.options.request import BACKGROUND

# Ticks that a prompt may be skipped for each competing prompt. However many there are, the first has eight ninths of
# the budget: with a limit that does not grow with them, all of a crowd would be overdue together, and take turns
# whatever their priorities. Of two, with ticks of a tenth of a second, the lower one moves about once a second.
PATIENCE = 8

# A prompt after the first gets at least this part of the room: so less than a quarter of a tick stays unused where
# one ends in it, and no prompt is cut into tiny slices.
PART = 4

# Tokens of others for each token of the background beside them. In a decode no token costs more than the first, so they
# lose an eighth of their speed at most, and hardly any where further rows cost next to nothing.
OTHERS = 8

# A prompt of the background is read in slices of so many tokens at least, beside others too: in smaller ones each costs
# nearly as much as a row.
SLICE = 16


class Need(msgspec.Struct, frozen=True):
    """What one sequence could put into a decode: `tokens` of them, the first at `position`."""

    position: int
    tokens: int
    decoding: bool  # a stream waits for its next token; `tokens` is then 1, or more where a structure forces them
    priority: int = 0  # higher goes first
    arrival: int = 0  # the request's id: the lower came first
    waited: int = 0  # ticks since it was last part of a decode
    beside: int = 0  # tokens that those who are not in the background had in these ticks


class Portion(msgspec.Struct, frozen=True):
    """The first `tokens` tokens of the sequence at `index` of the needs."""

    index: int
    tokens: int


def plan_tick(needs: Sequence[Need], n_batch: int, n_ubatch: int, chunk: int | None = None) -> list[Portion]:
    """Portions for one decode, `n_batch` tokens at most, in the order in which they are to be decoded.

    `chunk` limits the prompt tokens of a decode that also has a row.
    """
    behind = [index for index, need in enumerate(needs) if need.priority <= BACKGROUND]
    ahead = [index for index, need in enumerate(needs) if need.priority > BACKGROUND]
    if not behind or not ahead:
        return _plan(needs, n_batch, n_ubatch, chunk)
    planned = _plan([needs[index] for index in ahead], n_batch, n_ubatch, chunk)
    portions = [Portion(ahead[portion.index], portion.tokens) for portion in planned]
    rows = [portion.index for portion in portions if needs[portion.index].decoding][: n_batch - 1]
    spare = n_batch - len(rows) if chunk is None or not rows else min(n_batch - len(rows), chunk)
    line = [_Waiting(index, needs[index], len(behind), spare) for index in behind]
    line.sort(key=lambda one: _row(one.need))
    others = sum(portion.tokens for portion in portions)
    if any(one.is_overdue and one.is_due(len(rows)) and n_batch - others < one.slice for one in line):
        return _rows(needs, rows, 0) + _background(line, len(rows), spare, spare)
    return portions + _background(line, others, n_batch - others, others // OTHERS)


class _Waiting:
    """One of `count` in the background, where a decode has `spare` tokens for prompts."""

    def __init__(self, index: int, need: Need, count: int, spare: int) -> None:
        self.index, self.need, self._count = index, need, count
        self.slice = 1 if need.decoding else min(need.tokens, SLICE, spare)  # the least to decode; 0: none of it now

    def due(self, others: int) -> int:
        """Tokens that it has waited for, once others have had so many in this tick."""
        return (self.need.beside + others) // (OTHERS * self._count)

    @property
    def is_overdue(self) -> bool:
        """Whether others' prompts give way for it; not more often than in one tick of eight, whatever `count` is."""
        return self.need.waited >= OTHERS * self._count

    def is_due(self, others: int) -> bool:
        """Whether it is to have a slice."""
        return 0 < self.slice <= self.due(others)


def _background(line: Sequence[_Waiting], others: int, room: int, share: int) -> list[Portion]:
    """What goes along with `others` tokens: of those that have waited long enough the first, and as many as fit into
    the `share` of all of them."""
    portions = list[Portion]()
    for one in line:
        tokens = min(one.need.tokens, one.due(others), room, max(one.slice, share))
        if one.is_due(others) and one.slice <= tokens and (not portions or tokens <= share):
            portions.append(Portion(one.index, tokens))
            room -= tokens
            share -= tokens
    return portions


def _plan(needs: Sequence[Need], n_batch: int, n_ubatch: int, chunk: int | None) -> list[Portion]:
    """What is planned where all are of one kind."""
    rows = sorted((index for index, need in enumerate(needs) if need.decoding), key=lambda index: _row(needs[index]))
    room = max(0, n_batch - len(rows))
    if rows and chunk is not None:
        room = min(room, chunk)
    prompts = [index for index, need in enumerate(needs) if not need.decoding]
    portions = _rows(needs, rows[:n_batch], room // 2 if prompts else room)
    room -= sum(portion.tokens - 1 for portion in portions)
    least, part = 1, -(-room // PART)
    patience = patience_of(len(prompts))
    for index in sorted(prompts, key=lambda index: _prompt(needs[index], patience)):
        tokens = slice_length(needs[index].position, needs[index].tokens, room, n_ubatch)
        if tokens and (tokens >= least or tokens == needs[index].tokens):
            portions.append(Portion(index, tokens))
            room -= tokens
            least = part
    return portions


def _rows(needs: Sequence[Need], rows: Sequence[int], room: int) -> list[Portion]:
    """Each of the rows, with as many of its forced tokens as there is room for."""
    portions = []
    for index in rows:
        forced = min(needs[index].tokens - 1, room)
        room -= forced
        portions.append(Portion(index, 1 + forced))
    return portions


def patience_of(n_prompts: int) -> int:
    """Ticks after which one of `n_prompts` prompts goes before those of higher priorities."""
    return PATIENCE * max(1, n_prompts - 1)


def slice_length(position: int, tokens: int, room: int, n_ubatch: int) -> int:
    """How many of `tokens` prompt tokens, the first at `position`, go into `room`."""
    if tokens <= room or room < n_ubatch:
        return min(tokens, room)
    return (position + room) // n_ubatch * n_ubatch - position


def _row(need: Need) -> tuple[int, int, int]:
    return -need.waited, -need.priority, need.arrival


def _prompt(need: Need, patience: int) -> tuple[int, int, int]:
    overdue = need.waited if need.waited >= patience else 0
    return -overdue, -need.priority, need.arrival
