"""Numbers as people read them, and the two statistics that every table has. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable

GIB = float(1 << 30)


def median(values: Iterable[float]) -> float | None:
    """The median, or None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None


def p95(values: Iterable[float]) -> float | None:
    """The 95th percentile (linear interpolation), or None of fewer than two values."""
    known = list(values)
    return statistics.quantiles(known, n=20, method="inclusive")[-1] if len(known) > 1 else None


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 fault``, ``2 faults``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds as people read them: ``740 ms``, ``3.2 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three significant digits, ``–`` for none."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.{2 if value < 10_000 else 1}f} s"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def clock(seconds: float) -> str:
    """A time since the run's start: ``2.5 s``, ``1:30``, ``1:02:00``."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short_names(labels: Iterable[str]) -> dict[str, str]:
    """Label → the end of it from a slash on, as long as it must be to be told from the others'; without a hash."""
    bare = {label: re.sub(r"#sha256=[0-9a-f]+", "", label) for label in labels}
    names: dict[str, str] = {}
    for label, path in bare.items():
        parts = path.split("/")
        others = [other for other in bare.values() if other != path]
        for kept in range(1, len(parts) + 1):
            tail = "/".join(parts[-kept:])
            if not any(other == tail or other.endswith("/" + tail) for other in others):
                break
        names[label] = tail
    return names


def natural(name: str) -> tuple[str, int, str]:
    """Sorts ``gw10`` after ``gw9``."""
    head = name.rstrip("0123456789")
    return (head, int(name[len(head) :] or 0), name)
