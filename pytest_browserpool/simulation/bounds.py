"""A lower bound on the makespan of any schedule of a workload: a linear program; docs/scheduling.md has the
formula."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pytest_browserpool.simulation.truth import Truth
from pytest_browserpool.simulation.workload import SimNode, SimTest, Workload


@dataclass
class Group:
    """Tests that can run in the same places: their true work (run scales × noise), summed, and the
    largest."""

    test: SimTest
    work: float = 0.0
    longest: float = 0.0
    options: list[tuple[int, str, str]] = field(default_factory=list)


def lower_bound(workload: Workload, seed: int = 0) -> float:
    """Seconds below which no schedule of ``workload`` with the noise of ``seed`` can end, whatever it knows.

    The greatest of: the longest test alone in its best place with its set-up; and the least T for which the
    linear program has a fractional assignment of all work, in which a part of a group on a node pays at least
    that part of each set-up. A node that joins late has that much less time, one that is lost for good no
    time after. Nodes are counted with their first speed.
    """
    truth = Truth(workload, seed)
    groups = _groups(workload, truth)
    if not groups:
        return 0.0
    hidden = 1.0 - workload.overlap
    alone = max(_alone(workload, g, hidden) for g in groups)
    windows = _windows(workload)
    starts = sorted({start for start, _ in windows})
    best = math.inf
    for i, start in enumerate(starts):
        until = starts[i + 1] if i + 1 < len(starts) else math.inf
        here = [j for j, (s, _) in enumerate(windows) if s <= start]
        least = _least(workload, groups, hidden, windows, here)
        if least is not None and max(least, start) <= until:
            best = min(best, max(least, start))
    return max(alone, best if math.isfinite(best) else 0.0)


def _groups(workload: Workload, truth: Truth) -> list[Group]:
    groups: dict[tuple[object, ...], Group] = {}
    for test in workload.tests:
        key = (test.model, test.browsers, test.backends)
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(test)
            for j, node in enumerate(workload.nodes):
                group.options += [(j, *pair) for pair in workload.options(test, node)]
        scale = test.run_scale * truth.noise[test.id]
        group.work += scale
        group.longest = max(group.longest, scale)
    return list(groups.values())


def _alone(workload: Workload, group: Group, hidden: float) -> float:
    """The group's longest test in its best place. Its own set-up cannot hide when it is the first of its
    node."""
    model = workload.models[group.test.model]
    return min(
        (
            hidden * (workload.nodes[j].browsers[b].launch_s + model.load_s[b, e])
            + group.longest * model.run_s[b, e]
        )
        / workload.nodes[j].speed
        for j, b, e in group.options
    )


def _windows(workload: Workload) -> list[tuple[float, float]]:
    """For each node the time of its first joining, and of its loss if it never comes back."""
    late = workload.late
    windows = []
    for node in workload.nodes:
        start, end = 0.0, math.inf
        joined = node.id not in late
        for event in workload.events:
            if event.node != node.id:
                continue
            if event.kind == "join":
                if not joined:
                    start, joined = event.at, True
                end = math.inf
            elif event.kind == "lost":
                end = event.at
        windows.append((start, end))
    return windows


class _Program:
    """Rows of a sparse linear program: minimise T."""

    def __init__(self) -> None:
        self.columns = 1
        self.rows: list[dict[int, float]] = []
        self.bounds: list[float] = []

    def variable(self) -> int:
        self.columns += 1
        return self.columns - 1

    def at_most(self, row: dict[int, float], bound: float) -> None:
        self.rows.append(row)
        self.bounds.append(bound)


def _least(
    workload: Workload,
    groups: list[Group],
    hidden: float,
    windows: list[tuple[float, float]],
    here: list[int],
) -> float | None:
    """The least T of the linear program over the nodes ``here``; None if they cannot do all the work."""
    program = _Program()
    nodes = set(here)
    load: dict[int, dict[int, float]] = {j: {} for j in here}
    setups: dict[tuple[object, ...], int] = {}
    parts: list[dict[int, float]] = []
    for group in groups:
        whole: dict[int, float] = {}
        for j, browser, backend in group.options:
            if j not in nodes:
                continue
            x = program.variable()
            whole[x] = 1.0
            node = workload.nodes[j]
            model = workload.models[group.test.model]
            load[j][x] = group.work * model.run_s[browser, backend] / node.speed
            loaded = _setup(
                program,
                setups,
                load[j],
                (j, browser, backend, model.id),
                hidden * model.load_s[browser, backend],
                node,
            )
            launched = _setup(
                program, setups, load[j], (j, browser), hidden * node.browsers[browser].launch_s, node
            )
            program.at_most({x: 1.0, loaded: -1.0}, 0.0)
            program.at_most({loaded: 1.0, launched: -1.0}, 0.0)
        if not whole:
            return None
        parts.append(whole)
    for j in here:
        start, end = windows[j]
        program.at_most({**load[j], 0: -1.0}, -start)
        if math.isfinite(end):
            program.at_most(load[j], max(0.0, end - start))
    return _solve(program, parts)


def _setup(
    program: _Program,
    setups: dict[tuple[object, ...], int],
    load: dict[int, float],
    key: tuple[object, ...],
    seconds: float,
    node: SimNode,
) -> int:
    if key not in setups:
        setups[key] = program.variable()
        load[setups[key]] = seconds / node.speed
    return setups[key]


def _solve(program: _Program, parts: list[dict[int, float]]) -> float | None:
    # scipy takes half a second to import and only this needs it
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    def matrix(rows: list[dict[int, float]]) -> object:
        data = [v for row in rows for v in row.values()]
        columns = [c for row in rows for c in row]
        at = [i for i, row in enumerate(rows) for _ in row]
        return csr_array((data, (at, columns)), shape=(len(rows), program.columns))

    result = linprog(
        [1.0] + [0.0] * (program.columns - 1),
        A_ub=matrix(program.rows),
        b_ub=program.bounds,
        A_eq=matrix(parts),
        b_eq=[1.0] * len(parts),
        bounds=[(0, None)] + [(0, 1)] * (program.columns - 1),
        method="highs",
    )
    # the solver is right to about 1e-7; a bound must not be above the truth for that
    return float(result.fun) * (1 - 1e-7) if result.status == 0 else None
