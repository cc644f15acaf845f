"""xdist's own ``LoadScheduling`` and ``WorkStealingScheduling`` in a simulation: the real classes, unchanged.

``FakeNode`` behaves as xdist's worker does (``xdist/remote.py``): it takes the next index before it runs the
current one, gives back stolen tests all or none, and ends at the shutdown mark. ``PeerRun`` plays
``xdist/dsession.py``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_browserpool.simulation.truth import Clock, Ran, Truth
from pytest_browserpool.simulation.workload import SimEvent, Workload

SHUTDOWN = -1
"""The mark at the end of a worker's queue."""


@dataclass(frozen=True)
class _Gateway:
    id: str


class FakeNode:
    """What the scheduler classes use of a ``WorkerController``, and the worker behind it."""

    def __init__(self, name: str, run: PeerRun) -> None:
        self.gateway = _Gateway(name)
        self.owner = run
        self.shutting_down = False
        self.queue: list[int] = []
        self.held: int | None = None
        self.running: Ran | None = None
        self.busy = False
        self.gone = False

    def __repr__(self) -> str:
        return f"<FakeNode {self.gateway.id}>"

    # -- called by the scheduler -----------------------------------------------------------------------------

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        self.queue.extend(indices)
        self.owner.wake(self)

    def send_steal(self, indices: Sequence[int]) -> None:
        wanted = set(indices)
        stolen = [i for i in self.queue if i in wanted]
        if len(stolen) == len(wanted):
            self.owner.note_steal(self, stolen)
            self.queue = [i for i in self.queue if i not in wanted]
        else:
            stolen = []
        self.owner.unscheduled(self, stolen)

    def shutdown(self) -> None:
        if not self.shutting_down:
            self.shutting_down = True
            self.queue.append(SHUTDOWN)
            self.owner.wake(self)


class _Config:
    """What the scheduler classes ask of ``pytest.Config``."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.hook = None

    def getvalue(self, name: str) -> Any:
        return ["popen"] * self.nodes if name == "tx" else None

    def getoption(self, name: str, default: Any = None) -> Any:
        return default


@dataclass
class PeerRun:
    """Drives one of xdist's schedulers (``load`` or ``worksteal``) through a workload; ``run`` once, then
    read."""

    workload: Workload
    scheduler: str
    seed: int = 0
    failed: list[str] = field(default_factory=list)
    decision_s: list[float] = field(default_factory=list)
    planning_s: float = 0.0
    migrations: int = 0
    useful_migrations: int = 0

    def __post_init__(self) -> None:
        self.truth = Truth(self.workload, self.seed)
        self.clock = Clock()
        self.tests = self.workload.tests
        self.names = [t.id for t in self.tests]
        self.nodes: dict[str, FakeNode] = {}
        self.choices: dict[tuple[str, int], tuple[str, str] | None] = {}
        self.expected: dict[str, float] = {}
        self.settled: set[str] = set()
        self.begun = False

    def run(self) -> None:
        """From the first node to the last test; tests that nobody was left to run count as failed."""
        from xdist.remote import Producer
        from xdist.scheduler import LoadScheduling, WorkStealingScheduling

        late = self.workload.late
        first = [n for n in self.workload.nodes if n.id not in late]
        kind = {"load": LoadScheduling, "worksteal": WorkStealingScheduling}[self.scheduler]
        # silent, as in a session without --debug
        # where all nodes come later, the session begins with the first of them
        expected = max(1, len(first))
        self.sched: Any = kind(_Config(expected), Producer("simulated", enabled=False))
        self.sched.numnodes = expected
        for node in first:
            self._join(node.id)
        if first:
            self._first_schedule()
        for event in self.workload.events:
            self.clock.at(event.at, lambda event=event: self._event(event))  # type: ignore[misc]
        self._loop_once()
        self.clock.run()
        ran = {r.test for r in self.truth.trace} | self.settled
        self.failed.extend(name for name in self.names if name not in ran)

    def _first_schedule(self) -> None:
        began = time.perf_counter()
        self.sched.schedule()
        self.planning_s += time.perf_counter() - began
        self.begun = True

    # -- the worker ------------------------------------------------------------------------------------------

    def wake(self, node: FakeNode) -> None:
        """The worker looks into its queue soon: after what the scheduler is doing now."""
        self.clock.at(self.clock.now, lambda: self._step(node))

    def _step(self, node: FakeNode) -> None:
        if node.busy or node.gone:
            return
        if node.held is None and node.queue:
            node.held = node.queue.pop(0)
        if node.held is None or (node.held != SHUTDOWN and not node.queue):
            return
        if node.held == SHUTDOWN:
            node.gone = True
            self._decide(lambda: self.sched.remove_node(node))
            return
        index, node.held = node.held, node.queue.pop(0)
        self._begin(node, index)

    def _begin(self, node: FakeNode, index: int) -> None:
        now, test = self.clock.now, self.tests[index]
        name = node.gateway.id
        choice = self.choice(name, index)
        node.busy = True
        if choice is None:
            self.failed.append(test.id)
            self.settled.add(test.id)
            self.clock.at(now, lambda: self._complete(node, index, 0.0))
            return
        browser, backend = choice
        began = self.truth.begin(test, self.truth.nodes[name], browser, backend, now)
        ran = Ran(
            test=test.id,
            node=name,
            browser=browser,
            backend=backend,
            start=now,
            end=now + began.seconds,
            setup=began.setup,
        )
        node.running = ran
        self.clock.at(ran.end, lambda: self._end(node, index, ran))

    def _end(self, node: FakeNode, index: int, ran: Ran) -> None:
        if node.gone:
            return
        self.truth.trace.append(ran)
        node.running = None
        expected = self.expected.pop(ran.test, None)
        if expected is not None and ran.end < expected:
            self.useful_migrations += 1
        self._complete(node, index, ran.end - ran.start)

    def _complete(self, node: FakeNode, index: int, seconds: float) -> None:
        if node.gone:
            return
        node.busy = False
        self._decide(lambda: self.sched.mark_test_complete(node, index, seconds))
        self.wake(node)

    def choice(self, node: str, index: int) -> tuple[str, str] | None:
        """The first of the test's browsers that the node has: these schedulers know no capabilities."""
        key = (node, index)
        if key not in self.choices:
            options = self.workload.options(self.tests[index], self.truth.nodes[node])
            self.choices[key] = options[0] if options else None
        return self.choices[key]

    # -- dsession --------------------------------------------------------------------------------------------

    def _decide(self, call: Any) -> Any:
        began = time.perf_counter()
        answer = call()
        self.decision_s.append(time.perf_counter() - began)
        self._loop_once()
        return answer

    def _loop_once(self) -> None:
        if self.sched.tests_finished:
            for node in self.nodes.values():
                if not node.gone:
                    node.shutdown()

    def _join(self, name: str) -> None:
        node = self.nodes[name] = FakeNode(name, self)
        self.sched.add_node(node)
        self.sched.add_node_collection(node, self.names)

    def unscheduled(self, node: FakeNode, indices: list[int]) -> None:
        """The worker's answer to a steal, handled after what the scheduler is doing now."""
        self.clock.at(
            self.clock.now,
            lambda: self._decide(lambda: self.sched.remove_pending_tests_from_node(node, indices)),
        )

    def note_steal(self, victim: FakeNode, stolen: list[int]) -> None:
        """Each stolen test is a migration; note when it would have ended where it was."""
        self.migrations += len(stolen)
        wanted = set(stolen)
        at = victim.running.end if victim.running else self.clock.now
        warm = set(self.truth.warm[victim.gateway.id])
        node = self.truth.nodes[victim.gateway.id]
        ahead = [] if victim.held in (None, SHUTDOWN) else [victim.held]
        for index in (*ahead, *victim.queue):
            if index is None or index == SHUTDOWN:
                continue
            test, choice = self.tests[index], self.choice(node.id, index)
            if choice is None:
                continue
            browser, backend = choice
            if (browser,) not in warm:
                at += node.browsers[browser].launch_s / self.truth.speed[node.id]
            if (browser, backend, test.model) not in warm:
                at += self.workload.models[test.model].load_s[browser, backend] / self.truth.speed[node.id]
            warm |= {(browser,), (browser, backend, test.model)}
            at += self.truth.run_seconds(test, node, browser, backend)
            if index in wanted:
                self.expected[test.id] = at

    def _event(self, event: SimEvent) -> None:
        node = self.nodes.get(event.node)
        up = node is not None and not node.gone
        if event.kind == "slow":
            self.truth.slow(event.node, event.factor)
        elif event.kind == "join" and not up and (self.sched.has_pending or not self.begun):
            self._join(event.node)
            if self.begun:
                self._decide(self.sched.schedule)
            else:
                self._first_schedule()
        elif event.kind == "lost" and node is not None and up:
            node.gone = True
            self.truth.lose(event.node)
            crashed = self._decide(lambda: self.sched.remove_node(node))
            if crashed is not None:
                self.settled.add(crashed)
                self.failed.append(crashed)
