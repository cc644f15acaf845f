"""What really happens in a simulation: true times, what is warm where, and the trace. Every scheduler meets
the same."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from pytest_browserpool.simulation.workload import SimNode, SimTest, Workload


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One test that ran to its end; ``start`` to ``end`` includes ``setup`` seconds."""

    test: str
    node: str
    browser: str
    backend: str
    start: float
    end: float
    setup: float


@dataclass(frozen=True, kw_only=True)
class Began:
    """What beginning a test costs: seconds of launch and load as a whole, the part not hidden, and the warm
    run."""

    launch: float
    load: float
    setup: float
    run: float
    model: str

    @property
    def seconds(self) -> float:
        return self.setup + self.run


class Clock:
    """A virtual clock: callbacks in order of time, ties in the order in which they were set."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), what))

    def run(self) -> None:
        """Go on until nothing is left to happen."""
        while self._heap:
            self.now, _, what = heapq.heappop(self._heap)
            what()


class Truth:
    """True times of ``workload`` under ``seed``, and the warm state of its nodes.

    The noise belongs to the test: it is the same on every node and for every scheduler.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        rng = random.Random(seed)
        sigma = workload.noise_sigma
        self.noise = {t.id: math.exp(sigma * rng.gauss(0, 1) - sigma * sigma / 2) for t in workload.tests}
        self.tests = {t.id: t for t in workload.tests}
        self.nodes = {n.id: n for n in workload.nodes}
        self.speed = {n.id: n.speed for n in workload.nodes}
        self.warm: dict[str, set[tuple[str, ...]]] = {n.id: set() for n in workload.nodes}
        self.prewarmed: dict[tuple[str, str, str, str], float] = {}
        self.trace: list[Ran] = []
        self.launches = 0
        self.loads = 0

    def run_seconds(self, test: SimTest, node: SimNode, browser: str, backend: str) -> float:
        """The warm time of ``test``: ``run_s × run_scale × noise / speed``."""
        base = self.workload.models[test.model].run_s[browser, backend]
        return base * test.run_scale * self.noise[test.id] / self.speed[node.id]

    def setup_seconds(self, model: str, node: SimNode, browser: str, backend: str) -> tuple[float, float]:
        """(launch, load) that a test of ``model`` would have to pay on ``node`` now."""
        warm = self.warm[node.id]
        speed = self.speed[node.id]
        launch = 0.0 if (browser,) in warm else node.browsers[browser].launch_s / speed
        load = (
            0.0
            if (browser, backend, model) in warm
            else self.workload.models[model].load_s[browser, backend] / speed
        )
        return launch, load

    def prewarm(self, node: str, browser: str, backend: str, model: str, now: float) -> None:
        """The node was told what comes; what that hides is seen when the session's first test begins."""
        self.prewarmed.setdefault((node, browser, backend, model), now)

    def begin(self, test: SimTest, node: SimNode, browser: str, backend: str, now: float) -> Began:
        """``test`` begins on ``node``: pay for what is cold."""
        launch, load = self.setup_seconds(test.model, node, browser, backend)
        warm = self.warm[node.id]
        self.launches += (browser,) not in warm
        self.loads += (browser, backend, test.model) not in warm
        warm.add((browser,))
        warm.add((browser, backend, test.model))
        hidden = 0.0
        told = self.prewarmed.pop((node.id, browser, backend, test.model), None)
        if told is not None:
            hidden = min(self.workload.overlap * (launch + load), now - told)
        return Began(
            launch=launch,
            load=load,
            setup=launch + load - hidden,
            run=self.run_seconds(test, node, browser, backend),
            model=test.model,
        )

    def lose(self, node: str) -> None:
        """The node is gone with all that was warm."""
        self.warm[node].clear()
        self.prewarmed = {key: told for key, told in self.prewarmed.items() if key[0] != node}

    def slow(self, node: str, factor: float) -> None:
        self.speed[node] *= factor
