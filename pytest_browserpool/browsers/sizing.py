"""How many browsers a pool keeps, and which it lets go of first. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Kept(Protocol):
    """A running browser, as far as this matters here."""

    name: str
    leases: int
    """What is at work in it now, and the running test's hold on its model there."""
    last_used: float


K = TypeVar("K", bound=Kept)


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """What the scheduler advises; without one a pool keeps what it has up to its maximum."""

    size: int
    """Browsers alive at once, as long as no more are in use."""
    most: int
    """What the node's memory allows."""
    soon: frozenset[str] = frozenset()
    """Names that tests need soon."""


def first_to_go(browsers: Iterable[K], soon: frozenset[str]) -> K | None:
    """Which makes room for another: nothing at work, rather nothing needed soon, oldest first."""
    idle = [b for b in browsers if not b.leases]
    return min(idle, key=lambda b: (b.name in soon, b.last_used), default=None)


def surplus(browsers: Sequence[K], sizing: Sizing, until: float = math.inf) -> list[K]:
    """Those beyond the advised size that nothing uses or soon needs, oldest first. What was used after ``until`` stays:
    tests may use browsers of which the plan knows nothing, and one that is closed beneath them is launched again."""
    spare = [b for b in browsers if not b.leases and b.name not in sizing.soon and b.last_used <= until]
    spare.sort(key=lambda b: b.last_used)
    return spare[: max(0, len(browsers) - sizing.size)]
