"""Whether another number of threads is faster than the best so far: by the times of some decodes with each. Pure.

`Trial` says before each decode which count's turn it is, and gets the decode's time after it. Times are in seconds.
"""

from __future__ import annotations

import math

import msgspec

# A trial is over after this many decodes, or after fewer once they have taken this long: eight decodes of 5 ms are
# needed to even out chance, and eight of a second would be too many to lose.
TRIAL_DECODES = 8
LEAST_DECODES = 4
TRIAL_SECONDS = 1.0

# A trial that is not over after this many decodes is given up: hardly two of them were alike.
MOST_DECODES = 64

# A trial is lost at once when the other count has cost this many decodes more than the best would have.
LOST = 5.0

# Fewer threads win a tie, or nearly a tie: the CPUs that they leave are of use to others. More threads must be
# faster by more than chance.
FEWER = 1.02
MORE = 0.97

# Prompt tokens of two decodes that may be compared differ by less than this share.
ALIKE = 0.25

CLOCK = 1e-9  # no decode is shorter


class Shape(msgspec.Struct, frozen=True):
    """What a decode is made of. The times of two that are alike can be compared."""

    rows: int
    tokens: int  # prompt tokens

    def is_like(self, other: Shape) -> bool:
        """Whether they cost about the same."""
        larger = max(self.tokens, other.tokens)
        return self.rows == other.rows and abs(self.tokens - other.tokens) <= ALIKE * larger


class Pairs(msgspec.Struct, frozen=True):
    """Decodes of one shape, in the order best, other, other, best."""

    shape: Shape
    best_seconds: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()

    @property
    def is_other(self) -> bool:
        """Whether it is the other count's turn. The order cancels out times that rise or fall steadily, as they do in
        a longer context."""
        return (len(self.best_seconds) + len(self.seconds)) % 4 in (1, 2)

    @property
    def is_even(self) -> bool:
        """Whether both counts have had equally many."""
        return len(self.best_seconds) == len(self.seconds)

    @property
    def loss(self) -> float:
        """Seconds that the other count has cost, of those it has taken."""
        return sum(self.seconds) - len(self.seconds) * _mean(self.best_seconds) if self.seconds else 0.0


class Trial(msgspec.Struct, frozen=True):
    """Decodes by the best count and by another. Those of each shape take turns by themselves: where requests come and
    go, few in a row are alike."""

    best: int
    count: int
    all_pairs: tuple[Pairs, ...] = ()  # the shape of the decode under way comes first

    def begun(self, shape: Shape) -> Trial:
        """A decode of this shape is under way."""
        alike = next((pairs for pairs in self.all_pairs if pairs.shape.is_like(shape)), Pairs(shape))
        others = (pairs for pairs in self.all_pairs if pairs is not alike)
        return msgspec.structs.replace(self, all_pairs=(alike, *others))

    def observed(self, seconds: float) -> Trial:
        """It has taken `seconds`."""
        first, *others = self.all_pairs
        if first.is_other:
            first = msgspec.structs.replace(first, seconds=(*first.seconds, seconds))
        else:
            first = msgspec.structs.replace(first, best_seconds=(*first.best_seconds, seconds))
        return msgspec.structs.replace(self, all_pairs=(first, *others))

    @property
    def is_other(self) -> bool:
        """Whether the decode under way is by the other count."""
        return self.all_pairs[0].is_other

    @property
    def is_endless(self) -> bool:
        """Whether it will never reach a verdict."""
        return sum(len(pairs.best_seconds) + len(pairs.seconds) for pairs in self.all_pairs) >= MOST_DECODES

    @property
    def loss(self) -> float:
        """Seconds that it has cost."""
        return max(0.0, sum(pairs.loss for pairs in self.all_pairs))

    @property
    def is_lost(self) -> bool:
        """Whether it has cost too much to go on."""
        costs = ((pairs.loss, max(CLOCK, _mean(pairs.best_seconds))) for pairs in self.all_pairs)
        return sum(loss / best for loss, best in costs if loss > 0.0) > LOST

    @property
    def verdict(self) -> bool | None:
        """Whether the other count is the better one; None: not known yet."""
        if self.is_lost:
            return False
        even = [pairs for pairs in self.all_pairs if pairs.is_even]
        decodes = sum(2 * len(pairs.seconds) for pairs in even)
        best, other = sum(sum(pairs.best_seconds) for pairs in even), sum(sum(pairs.seconds) for pairs in even)
        if decodes >= TRIAL_DECODES or (decodes >= LEAST_DECODES and best + other >= TRIAL_SECONDS):
            return other <= best * (FEWER if self.count < self.best else MORE)
        return None


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values) if values else math.inf
