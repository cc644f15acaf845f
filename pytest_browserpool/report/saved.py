"""What warm browsers saved, by the run's own measurements. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pytest_browserpool.report.lines import BrowserLine, ModelLine
from pytest_browserpool.report.words import median
from pytest_browserpool.store.rows import RunRows


def saved_seconds(rows: RunRows, browsers: Sequence[BrowserLine], models: Sequence[ModelLine]) -> float:
    """Seconds of launches and loads that a browser and a session for each test would have cost on top.

    A test that found a browser running saves that browser's median launch; a load that found its session saves the
    median load of that model there, and the median of what the first call there took beyond a warm one. What this
    run did not measure counts as nothing.
    """
    return _launches(rows, browsers) + _loads(rows, models)


def _launches(rows: RunRows, browsers: Sequence[BrowserLine]) -> float:
    uses: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for operation in rows.operations:
        if operation.nodeid:
            uses[operation.browser].add((operation.nodeid, operation.instance))
    names = {line.name for line in browsers}
    saved = 0.0
    for name in names:
        mine = [b for b in rows.browsers if b.name == name]
        cost = median(b.launch_ms for b in mine if b.launch_ms > 0) or 0.0
        saved += max(0, len(uses[name]) - len(mine)) * cost / 1000
    return saved


def _loads(rows: RunRows, models: Sequence[ModelLine]) -> float:
    first: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    hits: dict[tuple[str, str, str], int] = defaultdict(int)
    for operation in rows.operations:
        key = operation.model, operation.browser, operation.backend
        if operation.kind == "load":
            hits[key] += operation.warm
        elif operation.kind == "run" and operation.ok and not operation.warm:
            first[key].append(operation.latency_ms)
    saved = 0.0
    for line in models:
        key = line.sha256, line.browser, line.backend
        compiling = median(first[key])
        beyond = (
            max(0.0, compiling - line.warm_ms) if compiling is not None and line.warm_ms is not None else 0.0
        )
        saved += hits[key] * ((line.load_ms or 0.0) + beyond) / 1000
    return saved
