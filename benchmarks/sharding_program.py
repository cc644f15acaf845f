"""The best partition as a mixed-integer program, solved by HiGHS: a yardstick that shares no code with the
search.

For equal hosts. ``x[v, k]`` says whether node ``v`` runs in stage ``k`` or later; a value is received by a
stage where
some reader is in it and its producer is not, and sent where its producer is in it and some reader is later.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from pytest_browserpool.sharding.graph import GIVEN, Graph
from pytest_browserpool.sharding.plan import Host

MILLISECONDS = 1e3
"""The solver's tolerances are absolute, so that seconds would be too coarse."""

Terms = dict[int, float]


def least_bottleneck(graph: Graph, host: Host, shards: int, *, time_limit: float) -> float | None:
    """Seconds of the least bottleneck over ``shards`` hosts like ``host``; None where HiGHS has no proof in
    time.

    Memory, operators and values that cannot pass are not modelled.
    """
    return _Program(graph, host, shards).solve(time_limit)


class _Program:
    def __init__(self, graph: Graph, host: Host, shards: int) -> None:
        self.graph, self.host, self.shards = graph, host, shards
        self.columns: dict[Hashable, int] = {}
        self.rows: list[tuple[Terms, float]] = []
        """Terms and the number that their sum must reach."""
        self.bottleneck = self._column("bottleneck")
        for node, before in enumerate(graph.predecessors):
            for stage in range(1, shards):
                self.rows += [
                    (self._sum((1, self._from(node, stage)), (-1, self._from(p, stage)))[0], 0.0)
                    for p in before
                ]
                if stage + 1 < shards:
                    self.rows.append(({self._x(node, stage): 1.0, self._x(node, stage + 1): -1.0}, 0.0))
        for stage in range(shards):
            self._stage(stage)

    def solve(self, time_limit: float) -> float | None:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_matrix

        count = len(self.columns)
        matrix = lil_matrix((len(self.rows), count))
        for row, (terms, _) in enumerate(self.rows):
            for column, factor in terms.items():
                matrix[row, column] = factor
        whole = np.array([isinstance(key, tuple) and key[0] == "x" for key in self.columns], dtype=int)
        upper = np.ones(count)
        upper[self.bottleneck] = np.inf
        target = np.zeros(count)
        target[self.bottleneck] = 1.0
        least = [number for _, number in self.rows]
        found = milp(
            target,
            constraints=LinearConstraint(matrix.tocsr(), least, np.inf),
            integrality=whole,
            bounds=Bounds(0, upper),
            options={"time_limit": time_limit, "mip_rel_gap": 1e-6},
        )
        return float(found.fun) / MILLISECONDS if found.status == 0 else None

    def _stage(self, stage: int) -> None:
        """The bottleneck is at least this stage's compute, transfers and latency."""
        graph, rate = self.graph, self.host.bytes_per_s
        parts = [(node.seconds / self.host.speed, self._in(v, stage)) for v, node in enumerate(graph.nodes)]
        for name, producer in graph.producer.items():
            readers, wanted = graph.readers[name], name in graph.outputs
            if not graph.size(name) or not (readers or wanted):
                continue
            if readers and (producer == GIVEN or stage):
                parts.append((graph.size(name) / rate, self._received(name, producer, readers, stage)))
            if producer != GIVEN and (wanted or stage + 1 < self.shards):
                parts.append((graph.size(name) / rate, self._sent(name, producer, readers, stage, wanted)))
        terms, constant = self._sum(*((-MILLISECONDS * weight, part) for weight, part in parts))
        terms[self.bottleneck] = terms.get(self.bottleneck, 0.0) + 1.0
        self.rows.append((terms, MILLISECONDS * self.host.latency_s - constant))

    def _received(self, name: str, producer: int, readers: list[int], stage: int) -> tuple[Terms, float]:
        flag = self._column(("received", name, stage))
        for reader in readers:
            earlier = ({}, 0.0) if producer == GIVEN else self._from(producer, stage)
            terms, constant = self._sum((-1, self._in(reader, stage)), (1, earlier))
            self.rows.append(({**terms, flag: 1.0}, -constant))
        return {flag: 1.0}, 0.0

    def _sent(
        self, name: str, producer: int, readers: list[int], stage: int, wanted: bool
    ) -> tuple[Terms, float]:
        if wanted:
            return self._in(producer, stage)
        flag = self._column(("sent", name, stage))
        for reader in readers:
            terms, constant = self._sum((-1, self._in(producer, stage)), (-1, self._from(reader, stage + 1)))
            self.rows.append(({**terms, flag: 1.0}, -constant - 1.0))
        return {flag: 1.0}, 0.0

    def _from(self, node: int, stage: int) -> tuple[Terms, float]:
        """Whether ``node`` runs in ``stage`` or later, as terms and a constant."""
        if stage <= 0:
            return {}, 1.0
        return ({}, 0.0) if stage >= self.shards else ({self._x(node, stage): 1.0}, 0.0)

    def _in(self, node: int, stage: int) -> tuple[Terms, float]:
        return self._sum((1, self._from(node, stage)), (-1, self._from(node, stage + 1)))

    def _sum(self, *parts: tuple[float, tuple[Terms, float]]) -> tuple[Terms, float]:
        terms: Terms = {}
        for weight, (own, _) in parts:
            for column, factor in own.items():
                terms[column] = terms.get(column, 0.0) + weight * factor
        return terms, math.fsum(weight * constant for weight, (_, constant) in parts)

    def _x(self, node: int, stage: int) -> int:
        return self._column(("x", node, stage))

    def _column(self, key: Hashable) -> int:
        return self.columns.setdefault(key, len(self.columns))
