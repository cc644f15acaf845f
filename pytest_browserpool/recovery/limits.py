"""When to stop trying: limits joined with ``&`` and ``|``, and how long to wait before the next try."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the recovery of one operation has used up so far."""

    seconds: float = 0.0
    """Since its first fault was seen."""
    attempts: int = 0
    """Attempts made, the first one included."""
    priority: int = 3


class Limit(Protocol):
    """Something that is reached, or not yet, by what was spent."""

    def reached(self, spent: Spent) -> str | None:
        """Why it is reached, in words, or None."""

    def seconds_left(self, spent: Spent) -> float:
        """Seconds until it is reached if only time passes: 0 when reached, ``inf`` when time alone never
        will."""


class _Joins:
    def __and__(self: Limit, other: Limit) -> Both:
        return Both(self, other)

    def __or__(self: Limit, other: Limit) -> Either:
        return Either(self, other)


@dataclass(frozen=True)
class Seconds(_Joins):
    """Reached ``most`` seconds after the first fault."""

    most: float

    def reached(self, spent: Spent) -> str | None:
        if spent.seconds < self.most:
            return None
        return f"{spent.seconds:.1f} s spent on recovery, {self.most:g} s allowed"

    def seconds_left(self, spent: Spent) -> float:
        return max(0.0, self.most - spent.seconds)


@dataclass(frozen=True)
class Attempts(_Joins):
    """Reached when ``most`` attempts were made, the first one included."""

    most: int

    def reached(self, spent: Spent) -> str | None:
        return f"{spent.attempts} attempts made, {self.most} allowed" if spent.attempts >= self.most else None

    def seconds_left(self, spent: Spent) -> float:
        return 0.0 if spent.attempts >= self.most else math.inf


@dataclass(frozen=True)
class Priorities(_Joins):
    """Reached by every operation whose priority lies in ``first`` to ``last``; joined with ``&`` it
    selects."""

    first: int
    last: int

    def reached(self, spent: Spent) -> str | None:
        return f"priority {spent.priority}" if self.first <= spent.priority <= self.last else None

    def seconds_left(self, spent: Spent) -> float:
        return 0.0 if self.first <= spent.priority <= self.last else math.inf


@dataclass(frozen=True)
class Both(_Joins):
    """``a & b``: reached when both are."""

    left: Limit
    right: Limit

    def reached(self, spent: Spent) -> str | None:
        left, right = self.left.reached(spent), self.right.reached(spent)
        return f"{left}: {right}" if left is not None and right is not None else None

    def seconds_left(self, spent: Spent) -> float:
        return max(self.left.seconds_left(spent), self.right.seconds_left(spent))


@dataclass(frozen=True)
class Either(_Joins):
    """``a | b``: reached when one of them is."""

    left: Limit
    right: Limit

    def reached(self, spent: Spent) -> str | None:
        return self.left.reached(spent) or self.right.reached(spent)

    def seconds_left(self, spent: Spent) -> float:
        return min(self.left.seconds_left(spent), self.right.seconds_left(spent))


URGENT_SECONDS = 15.0
"""For priorities 1 and 2: somebody waits for the answer, and a standby or another browser takes a few
seconds."""
USUAL_SECONDS = 60.0
"""For priorities 3 to 5: a browser's start (3 s) and a WebGPU compile on a software adapter (up to 18 s),
twice."""
MOST_ATTEMPTS = 7
"""The whole ladder over three browsers, the pool's default: first try, retry, reload, restart, two other
browsers, CPU. What still fails then is the model's doing."""


def default_limit(attempt_needs: float) -> Limit:
    """The ``recovery_timeout`` by priority, and ``MOST_ATTEMPTS``.

    ``attempt_needs``: seconds that one attempt may rightly take, with launch and load. The time allowed is
    never less, or recovery from a hang, which is only seen at the end of an attempt's time, could never end
    well.
    """
    urgent = Priorities(1, 2) & Seconds(max(URGENT_SECONDS, attempt_needs))
    usual = Priorities(3, 5) & Seconds(max(USUAL_SECONDS, attempt_needs))
    return urgent | usual | Attempts(MOST_ATTEMPTS)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential delays with jitter: ``base * factor**(n-1)``, at most ``most``, times 1 - ``jitter`` to
    1."""

    base: float = 0.1
    """Seconds before the second recovery: the operating system needs tens of milliseconds to reap a
    browser."""
    factor: float = 2.0
    most: float = 2.0
    """Seconds: a fault that outlasts 2 s is not transient, and the budget is better spent on another
    browser."""
    jitter: float = 0.5
    """Several pages lose one GPU process at the same moment; they should not come back at the same moment."""

    def delay(self, recoveries: int, source: random.Random) -> float:
        """Seconds to wait after ``recoveries`` earlier ones; none before the first, a dead process won't
        revive."""
        if recoveries <= 0:
            return 0.0
        # the exponent is bounded so that a long history cannot overflow a float
        full = min(self.most, self.base * self.factor ** min(recoveries - 1, 64))
        return full * (1.0 - self.jitter * source.random())
