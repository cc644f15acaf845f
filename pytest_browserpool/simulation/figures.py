"""From a trace to the figures that ``browserpool simulate`` prints; each is defined in docs/scheduling.md."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pytest_browserpool.simulation.bounds import lower_bound
from pytest_browserpool.simulation.ours import STEP_ITERATIONS, OurRun
from pytest_browserpool.simulation.peers import PeerRun
from pytest_browserpool.simulation.truth import Ran
from pytest_browserpool.simulation.workload import Workload

SCHEDULERS = ("browserpool", "load", "worksteal")


def simulate(
    workload: Workload,
    schedulers: Sequence[str] = SCHEDULERS,
    seed: int = 0,
    *,
    step_iterations: int = STEP_ITERATIONS,
    spare: bool = False,
) -> dict[str, Any]:
    """The result of ``browserpool simulate`` as plain data; times in seconds.

    ``spare``: xdist's schedulers get only the nodes that can run every test, so that they fail none.
    """
    bound = lower_bound(workload, seed)
    results = {}
    for name in schedulers:
        run: OurRun | PeerRun
        if name == "browserpool":
            run = OurRun(workload, seed, step_iterations=step_iterations)
        else:
            run = PeerRun(spared(workload) if spare else workload, name, seed)
        run.run()
        results[name] = figures(workload, run, bound)
    return {"seed": seed, "schedulers": results}


def spared(workload: Workload) -> Workload:
    """``workload`` on only those of its nodes that can run all of its tests.

    Raises:
        ValueError: there is no such node.
    """
    kinds = {(t.model, t.browsers, t.backends): t for t in workload.tests}
    nodes = tuple(n for n in workload.nodes if all(workload.options(t, n) for t in kinds.values()))
    late = workload.late
    if not any(n.id not in late for n in nodes):
        raise ValueError("no node can run every test from the beginning")
    names = {n.id for n in nodes}
    return dataclasses.replace(
        workload, nodes=nodes, events=tuple(e for e in workload.events if e.node in names)
    )


def figures(workload: Workload, run: OurRun | PeerRun, bound: float) -> dict[str, Any]:
    """Everything about one finished run."""
    trace = sorted(run.truth.trace, key=lambda r: (r.start, r.node))
    makespan = max((r.end for r in trace), default=0.0)
    busy = {n.id: 0.0 for n in workload.nodes}
    for ran in trace:
        busy[ran.node] += ran.end - ran.start
    mean = statistics.fmean(busy.values())
    ours = isinstance(run, OurRun)
    moves = run.engine.migrations if isinstance(run, OurRun) else None
    return {
        "makespan": makespan,
        "lower_bound": bound,
        "trace": [dataclasses.asdict(ran) for ran in trace],
        "failed": sorted(run.failed),
        "migrations": moves.count if moves else getattr(run, "migrations", 0),
        "useful_migrations": moves.useful if moves else getattr(run, "useful_migrations", 0),
        "launches": run.truth.launches,
        "loads": run.truth.loads,
        "utilization": {
            "node": {name: seconds / makespan if makespan else 0.0 for name, seconds in busy.items()},
            "browser": _browser_utilization(workload, trace, makespan),
        },
        "peak_load": max(busy.values()),
        "load_spread": statistics.pstdev(busy.values()) / mean if mean else 0.0,
        "decision_us": _decision_us(run.decision_s),
        **({"planning_s": run.planning_s} if ours else {}),
    }


def _browser_utilization(workload: Workload, trace: Sequence[Ran], makespan: float) -> dict[str, float]:
    """Share of the time, on the nodes that have the browser, in which it runs a test (set-up is not use)."""
    used: dict[str, float] = defaultdict(float)
    for ran in trace:
        used[ran.browser] += ran.end - ran.start - ran.setup
    having = {b: sum(b in n.browsers for n in workload.nodes) for n in workload.nodes for b in n.browsers}
    return {b: used[b] / (makespan * count) if makespan else 0.0 for b, count in sorted(having.items())}


def _decision_us(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {"p50": 0.0, "p99": 0.0, "mean": 0.0}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "p50": ordered[round(last * 0.5)] * 1e6,
        "p99": ordered[round(last * 0.99)] * 1e6,
        "mean": statistics.fmean(ordered) * 1e6,
    }
