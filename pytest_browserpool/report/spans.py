"""Intervals of time: united, cut out of one another, thinned out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Interval = tuple[float, float]


def united(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as ``intervals`` without overlaps, in order."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif end > start:
            found.append((start, end))
    return found


def without(interval: Interval, holes: Sequence[Interval]) -> list[Interval]:
    """What is left of ``interval`` outside ``holes`` (united, in order)."""
    left, (start, end) = [], interval
    for begin, stop in holes:
        if stop <= start:
            continue
        if begin >= end:
            break
        if begin > start:
            left.append((start, begin))
        start = max(start, stop)
    return [*left, (start, end)] if end > start else left


def seconds(intervals: Iterable[Interval]) -> float:
    """How long they are in all, overlaps counted once."""
    return sum(end - start for start, end in united(intervals))
