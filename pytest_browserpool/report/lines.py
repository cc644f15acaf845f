"""The tables of a run: its browsers, models and nodes, a line each. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pytest_browserpool.records import OperationRecord
from pytest_browserpool.report.timeline import load_ms
from pytest_browserpool.report.words import median, natural, p95, short_names
from pytest_browserpool.store.rows import RunRows


@dataclass(frozen=True, kw_only=True)
class BrowserLine:
    """One kind of browser that was used."""

    name: str
    version: str
    adapter: str
    software: bool
    nodes: tuple[str, ...]
    launches: int
    launch_ms: float | None
    """Median."""
    tests: int
    calls: int
    busy: float | None
    """Share of its life that it spent loading and running models, 0 … 1, over all its instances."""


@dataclass(frozen=True, kw_only=True)
class ModelLine:
    """One model in one browser on one backend. Failed and degraded operations are left out of the times."""

    model: str
    """Its id, or the end of its label as far as that tells it from the others."""
    label: str
    """The source as a test wrote it."""
    sha256: str
    type: str
    browser: str
    backend: str
    loads: int
    load_ms: float | None
    calls: int
    warm_ms: float | None
    """Median of calls on a session that had run before."""
    p95_ms: float | None
    degraded: int
    warm: tuple[float, ...]
    """The warm calls' latencies, ms."""
    nodeids: tuple[str, ...]
    """The tests that used it so."""


@dataclass(frozen=True, kw_only=True)
class NodeLine:
    """One node and what it did."""

    node: str
    host: str
    cores: int
    memory_gib: float
    gpu: str
    tests: int
    busy_s: float
    utilization: float
    """Share of the run that it spent in tests, 0 … 1."""
    end: str
    pool_sizes: tuple[int, ...] = ()
    """Browsers that the scheduler's plan kept there, each time the number changed."""


def browser_lines(rows: RunRows, seconds: float) -> tuple[BrowserLine, ...]:
    """A line for each name, version and adapter. ``seconds``: the run's length."""
    kinds: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for browser in rows.browsers:
        kinds[browser.name, browser.version, browser.adapter].append(browser)
    busy: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    tests_of: dict[str, set[str]] = defaultdict(set)
    for operation in rows.operations:
        busy[operation.instance] += operation.latency_ms / 1000
        calls[operation.instance] += operation.kind != "load"
        tests_of[operation.instance].add(operation.nodeid)
    lines = []
    for (name, version, adapter), group in sorted(kinds.items()):
        life = sum((b.closed_at or rows.run.started_at + seconds) - b.launched_at for b in group)
        lines.append(
            BrowserLine(
                name=name,
                version=version,
                adapter=adapter,
                software="(software)" in adapter,
                nodes=tuple(sorted({b.node for b in group}, key=natural)),
                launches=len(group),
                launch_ms=median(b.launch_ms for b in group if b.launch_ms > 0),
                tests=len(set().union(*(tests_of[b.instance] for b in group))),
                calls=sum(calls[b.instance] for b in group),
                busy=min(1.0, sum(busy[b.instance] for b in group) / life) if life > 0 else None,
            )
        )
    return tuple(lines)


def model_lines(rows: RunRows) -> tuple[ModelLine, ...]:
    """A line for each model, browser and backend."""
    known = {model.sha256: model for model in rows.models}
    names = short_names(model.id or model.label for model in rows.models)
    launched = {browser.instance: browser for browser in rows.browsers}
    groups: dict[tuple[str, str, str], list[OperationRecord]] = defaultdict(list)
    for operation in rows.operations:
        groups[operation.model, operation.browser, operation.backend].append(operation)
    lines = []
    for (sha256, browser, backend), operations in groups.items():
        model = known.get(sha256)
        good = [o for o in operations if o.ok and not o.degraded]
        loads = [load_ms(o, launched.get(o.instance)) for o in good if o.kind == "load" and not o.warm]
        warm = tuple(o.latency_ms for o in good if o.kind == "run" and o.warm)
        lines.append(
            ModelLine(
                model=names[model.id or model.label] if model else sha256[:12],
                label=model.label if model else "",
                sha256=sha256,
                type=model.type if model else "",
                browser=browser,
                backend=backend,
                loads=len(loads),
                load_ms=median(loads),
                calls=sum(o.kind != "load" for o in operations),
                warm_ms=median(warm),
                p95_ms=p95(warm),
                degraded=sum(o.degraded for o in operations),
                warm=warm,
                nodeids=tuple(dict.fromkeys(o.nodeid for o in operations if o.nodeid)),
            )
        )
    return tuple(sorted(lines, key=lambda line: (line.model, line.backend, line.browser)))


def node_lines(rows: RunRows, seconds: float) -> tuple[NodeLine, ...]:
    """A line for each node, in the order of their numbers. ``seconds``: the run's length."""
    tests: dict[str, list[float]] = defaultdict(list)
    for test in rows.tests:
        tests[test.node].append(test.duration_s)
    sizes: dict[str, list[int]] = defaultdict(list)
    for metric in sorted((m for m in rows.metrics if m.name == "pool_size"), key=lambda m: m.at):
        sizes[metric.node].append(int(metric.value))
    return tuple(
        NodeLine(
            node=node.node,
            host=node.host,
            cores=node.cores,
            memory_gib=node.memory_gib,
            gpu=node.gpu,
            tests=len(tests[node.node]),
            busy_s=sum(tests[node.node]),
            utilization=min(1.0, sum(tests[node.node]) / seconds) if seconds > 0 else 0.0,
            end="" if node.down_reason in ("", "end", "finished") else node.down_reason,
            pool_sizes=tuple(sizes[node.node]),
        )
        for node in sorted(rows.nodes, key=lambda n: natural(n.node))
    )
