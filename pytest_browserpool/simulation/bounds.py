"""A lower bound on the makespan of any schedule of a workload: a linear program; docs/scheduling.md has the
formula."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pytest_browserpool.simulation.truth import Truth
from pytest_browserpool.simulation.workload import SimTest, Workload

LARGEST_PROGRAM = 8_000
"""(group, node, session) triples up to which the linear program is solved: some ten seconds. Above, the cheapest work
and one load of each model are shared evenly over the nodes instead."""


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
    if sum(len(g.options) for g in groups) > LARGEST_PROGRAM:
        return max(alone, _even(workload, groups, hidden))
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


def _even(workload: Workload, groups: list[Group], hidden: float) -> float:
    """All work in its best place, and the cheapest load of each model, shared evenly over the nodes."""
    total = 0.0
    loads: dict[str, float] = {}
    for group in groups:
        model = workload.models[group.test.model]
        speeds = [(workload.nodes[j].speed, (b, e)) for j, b, e in group.options]
        total += group.work * min(model.run_s[pair] / speed for speed, pair in speeds)
        load = min(model.load_s[pair] / speed for speed, pair in speeds)
        loads[model.id] = min(load, loads.get(model.id, load))
    return (total + hidden * sum(loads.values())) / len(workload.nodes)


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
    """Rows of a sparse linear program that minimises T, its column 0; ``load`` has each node's seconds."""

    def __init__(self, nodes: list[int]) -> None:
        self.columns = 1
        self.rows: list[dict[int, float]] = []
        self.bounds: list[float] = []
        self.load: dict[int, dict[int, float]] = {j: {} for j in nodes}
        self.setups: dict[tuple[object, ...], int] = {}

    def seconds(self, node: int, seconds: float) -> int:
        """A new column that takes ``seconds`` of ``node`` when it is 1."""
        self.columns += 1
        self.load[node][self.columns - 1] = seconds
        return self.columns - 1

    def setup(self, node: int, what: tuple[str, ...], seconds: float) -> int:
        """The column of a set-up, the same for all that share it."""
        key = (node, *what)
        if key not in self.setups:
            self.setups[key] = self.seconds(node, seconds)
        return self.setups[key]

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
    program = _Program(here)
    parts: list[dict[int, float]] = []
    for group in groups:
        whole: dict[int, float] = {}
        model = workload.models[group.test.model]
        for j, browser, backend in group.options:
            if j not in program.load:
                continue
            node = workload.nodes[j]
            part = program.seconds(j, group.work * model.run_s[browser, backend] / node.speed)
            load_s = hidden * model.load_s[browser, backend] / node.speed
            launch_s = hidden * node.browsers[browser].launch_s / node.speed
            loaded = program.setup(j, (browser, backend, model.id), load_s)
            program.at_most({part: 1.0, loaded: -1.0}, 0.0)
            program.at_most({loaded: 1.0, program.setup(j, (browser,), launch_s): -1.0}, 0.0)
            whole[part] = 1.0
        if not whole:
            return None
        parts.append(whole)
    for j in here:
        start, end = windows[j]
        program.at_most({**program.load[j], 0: -1.0}, -start)
        if math.isfinite(end):
            program.at_most(program.load[j], max(0.0, end - start))
    return _solve(program, parts)


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
