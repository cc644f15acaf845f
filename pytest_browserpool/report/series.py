"""What was measured over time, as series that a page can draw: grouped, thinned out, in seconds from the start. Pure."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_browserpool.records import MetricRecord
from pytest_browserpool.report.words import GIB, natural
from pytest_browserpool.store.rows import RunRows

POINTS = 240
"""Points of a drawn series: about one for three pixels of a wide screen."""

QUEUED = re.compile(r"queued_(\d+)")
"""The run's own series: tests of that priority that wait to be sent."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart: (seconds from the run's start, value)."""

    name: str
    node: str
    browser: str
    points: tuple[tuple[float, float], ...]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for _, value in self.points)

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.points)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart of series with a common unit."""

    key: str
    title: str
    unit: str
    series: tuple[Series, ...]
    step: bool = False
    """Whether a value holds until the next."""


def panels(rows: RunRows) -> tuple[Panel, ...]:
    """Utilization, memory, models and queue over time; what was not measured is left out."""
    zero = rows.run.started_at
    named = {browser.instance: browser.name for browser in rows.browsers}
    by_name: dict[str, dict[tuple[str, str], list[MetricRecord]]] = defaultdict(lambda: defaultdict(list))
    for metric in rows.metrics:
        by_name[metric.name][metric.node, metric.instance].append(metric)

    def of(name: str, words: str, scale: float = 1.0, *, browsers: bool) -> list[Series]:
        found = []
        for (node, instance), group in by_name.get(name, {}).items():
            if bool(instance) == browsers:
                browser = named.get(instance, instance)
                label = f"{node} {browser}" if browsers else f"{node} {words}"
                found.append(_series(label.strip(), node, browser, group, zero, scale))
        return sorted(found, key=lambda s: (natural(s.node), s.name))

    utilization = of("cpu_percent", "processor", browsers=False) + of("gpu_percent", "GPU", browsers=False)
    utilization += of("utilization", "", 100.0, browsers=True)
    memory = of("memory_bytes", "pytest", 1 / GIB, browsers=False) + of(
        "memory_bytes", "", 1 / GIB, browsers=True
    )
    memory += of("gpu_memory_bytes", "GPU", 1 / GIB, browsers=False)
    found = (
        Panel(key="utilization", title="Utilization", unit="%", series=_numbered(utilization)),
        Panel(key="memory", title="Memory", unit="GiB", series=_numbered(memory)),
        Panel(
            key="models",
            title="Models in browsers",
            unit="models",
            series=_numbered(of("active_models", "", browsers=True)),
            step=True,
        ),
        Panel(key="queue", title="Queue", unit="tests waiting", series=_queue(by_name, zero), step=True),
    )
    return tuple(panel for panel in found if panel.series)


def _queue(by_name: dict[str, dict[tuple[str, str], list[MetricRecord]]], zero: float) -> tuple[Series, ...]:
    found = []
    for name, groups in sorted(by_name.items()):
        if match := QUEUED.fullmatch(name):
            for group in groups.values():
                found.append(_series(f"priority {match[1]}", "", "", group, zero, 1.0))
    return tuple(found)


def _series(
    name: str, node: str, browser: str, group: list[MetricRecord], zero: float, scale: float
) -> Series:
    points = sorted((max(0.0, m.at - zero), m.value * scale) for m in group)
    return Series(name=name, node=node, browser=browser, points=thinned(points))


def _numbered(series: Sequence[Series]) -> tuple[Series, ...]:
    """Names made distinct: one node may have had several browsers of a name."""
    seen: dict[str, int] = defaultdict(int)
    found = []
    for each in series:
        seen[each.name] += 1
        number = seen[each.name]
        name = each.name if number == 1 else f"{each.name} ({number})"
        found.append(Series(name=name, node=each.node, browser=each.browser, points=each.points))
    return tuple(found)


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> tuple[tuple[float, float], ...]:
    """At most ``most`` of ``points`` (in order of time): of each stretch of time the highest and the lowest, so that
    peaks stay."""
    if len(points) <= most:
        return tuple(points)
    begin, end = points[0][0], points[-1][0]
    width = (end - begin) / (most // 2) or 1.0
    stretches: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for point in points:
        stretches[min(int((point[0] - begin) / width), most // 2 - 1)].append(point)
    return tuple(point for group in stretches.values() for point in _extremes(group))


def _extremes(group: list[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    return sorted({min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])})
