"""Token buckets: how much may be taken now, and when there will be enough. Pure: the time is an argument.

A bucket holds at most as much as is allowed in its period, and fills evenly. What was taken beyond what was there is
a debt, which fills up first: so can a thing be charged whose size is known only once it is over.
"""

from __future__ import annotations

import math

import msgspec


class Rate(msgspec.Struct, frozen=True):
    """So much in so many seconds."""

    amount: float
    seconds: float


class Bucket(msgspec.Struct, frozen=True):
    """What was in a bucket, and when. Times are in seconds, of any clock that never goes back."""

    level: float
    at: float


def full(rate: Rate, now: float) -> Bucket:
    """One that nothing was taken from."""
    return Bucket(rate.amount, now)


def filled(bucket: Bucket, rate: Rate, now: float) -> Bucket:
    """It, as it is at `now`; a clock that goes back adds nothing and takes nothing away."""
    passed = max(0.0, now - bucket.at)
    return Bucket(min(rate.amount, bucket.level + passed * rate.amount / rate.seconds), max(now, bucket.at))


def taken(bucket: Bucket, rate: Rate, now: float, amount: float) -> Bucket:
    """It, after so much was taken, be it there or not."""
    bucket = filled(bucket, rate, now)
    return Bucket(bucket.level - amount, bucket.at)


def wait(bucket: Bucket, rate: Rate, now: float, amount: float = 1.0) -> int:
    """Whole seconds until so much is there; 0 where it is there now. `amount` is at most the rate's."""
    short = amount - filled(bucket, rate, now).level
    # What rounding has left away is there: else who comes back at the second that it was told would be refused again.
    return 0 if short <= 1e-6 else math.ceil(short * rate.seconds / rate.amount)
