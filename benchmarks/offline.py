"""The offline reference: the best schedule that could be found with perfect information and much time.

Exact (mixed-integer programming) where the instance is small; else a long iterated local search. It belongs
to the benchmark and not to the plugin. Workloads with events have none: their future is not a schedule's to
choose.
"""

from __future__ import annotations

import dataclasses
import math
import random

from pytest_browserpool.placement import planning
from pytest_browserpool.placement.book import Book
from pytest_browserpool.placement.history import Sample
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.placement.search import Search
from pytest_browserpool.placement.state import Batch, NodePlan, Test
from pytest_browserpool.simulation.ours import KNOWN_FOR_SURE, capabilities, known, needs_of
from pytest_browserpool.simulation.truth import Truth
from pytest_browserpool.simulation.workload import Workload

EXACT_BINARIES = 260
"""Binary variables up to which the exact solver is asked."""
EXACT_SECONDS = 30.0
ROUNDS, ITERATIONS = 60, 2500
"""Restarts of the search from a shaken best plan, and its iterations in each."""


def reference(workload: Workload, seed: int) -> float | None:
    """Makespan of the best offline schedule found, priorities left aside; None for a workload with events."""
    if workload.events or workload.overlap:
        return None
    found = _search(workload, seed)
    exact = _exact(workload, seed)
    return min(found, exact) if exact is not None else found


def _search(workload: Workload, seed: int) -> float:
    truth = Truth(workload, seed)
    true = dataclasses.replace(
        known(workload),
        scales={t.id: Sample(t.run_scale * truth.noise[t.id], KNOWN_FOR_SURE) for t in workload.tests},
    )
    book = Book(EngineConfig(), true)
    nodes = [book.add_node(capabilities(n), 0.0) for n in workload.nodes]
    for model in workload.models.values():
        for browser in {b for n in workload.nodes for b in n.browsers}:
            for backend in ("webgpu", "webnn", "webnn-gpu", "webnn-npu", "wasm"):
                if (browser, backend) not in model.run_s:
                    book.refuse((browser, backend, model.id))
    # not what the engine would believe, but what is true
    book.estimates.unit.update({session: sample.value for session, sample in true.runs.items()})
    book.estimates.load.update({session: sample.value for session, sample in true.loads.items()})
    flat = [dataclasses.replace(t, priority=3) for t in workload.tests]
    tests = book.add_tests(needs_of(workload, t) for t in flat)
    by_kind: dict[int, list[Test]] = {}
    for test in tests:
        by_kind.setdefault(test.kind.index, []).append(test)
    planning.plan(book.kinds, by_kind, nodes, 0.0)
    rng = random.Random(seed)
    best, best_end = _snapshot(nodes), math.inf
    for _ in range(ROUNDS):
        search = Search(nodes, rng, 0.0)
        search.price = 0.0  # the reference cares for the makespan alone
        search.run(ITERATIONS)
        for node in nodes:
            node.recount()
        end = max(n.finish for n in nodes)
        if end < best_end - 1e-9:
            best, best_end = _snapshot(nodes), end
        else:
            _restore(nodes, best)
        _shake(nodes, rng)
    return best_end


Plan = list[list[tuple[Batch, list[Test]]]]


def _snapshot(nodes: list[NodePlan]) -> Plan:
    return [[(batch, list(batch.tests)) for batch in node.batches.values()] for node in nodes]


def _restore(nodes: list[NodePlan], plan: Plan) -> None:
    for node in nodes:
        for batch in list(node.batches.values()):
            node.take(batch, list(batch.tests))
    for node, batches in zip(nodes, plan, strict=True):
        for batch, tests in batches:
            node.put(batch.kind, batch.session, tests)


def _shake(nodes: list[NodePlan], rng: random.Random) -> None:
    """Move a few batches (or halves of them) anywhere."""
    for _ in range(rng.randint(1, 5)):
        node = rng.choice([n for n in nodes if n.batches])
        batch = rng.choice(list(node.batches.values()))
        other = rng.choice([n for n in nodes if batch.kind.options[n.profile]])
        session = rng.choice(batch.kind.options[other.profile])
        tests = list(batch.tests) if rng.random() < 0.7 else batch.tests[::2]
        kind = batch.kind
        node.take(batch, tests)
        other.put(kind, session, tests)


def _exact(workload: Workload, seed: int) -> float | None:
    """The optimum of a small workload; None if it is too large or the solver ran out of time."""
    places = [
        (t, j, *pair)
        for t in workload.tests
        for j, n in enumerate(workload.nodes)
        for pair in workload.options(t, n)
    ]
    if len(places) > EXACT_BINARIES:
        return None
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    truth = Truth(workload, seed)
    setups: dict[tuple[object, ...], int] = {}
    rows: list[dict[int, float]] = [{0: -1.0} for _ in workload.nodes]
    links: list[dict[int, float]] = []
    whole: dict[str, dict[int, float]] = {t.id: {} for t in workload.tests}
    count = 1 + len(places)
    for x, (test, j, browser, backend) in enumerate(places, start=1):
        node, model = workload.nodes[j], workload.models[test.model]
        rows[j][x] = truth.run_seconds(test, node, browser, backend)
        whole[test.id][x] = 1.0
        for key, seconds in (
            ((j, browser), node.browsers[browser].launch_s),
            ((j, browser, backend, model.id), model.load_s[browser, backend]),
        ):
            if key not in setups:
                setups[key] = count
                rows[j][count] = seconds / node.speed
                count += 1
            links.append({x: 1.0, setups[key]: -1.0})

    def matrix(lines: list[dict[int, float]]) -> object:
        at = [(i, c, v) for i, line in enumerate(lines) for c, v in line.items()]
        return coo_array(
            ([v for *_, v in at], ([i for i, *_ in at], [c for _, c, _ in at])), shape=(len(lines), count)
        ).tocsr()

    result = milp(
        [1.0] + [0.0] * (count - 1),
        constraints=[
            LinearConstraint(matrix(rows + links), -math.inf, 0.0),
            LinearConstraint(matrix(list(whole.values())), 1.0, 1.0),
        ],
        integrality=[0] + [1] * (count - 1),
        bounds=Bounds([0.0] * count, [math.inf] + [1.0] * (count - 1)),
        options={"time_limit": EXACT_SECONDS, "mip_rel_gap": 1e-4},
    )
    return float(result.fun) if result.status == 0 else None
