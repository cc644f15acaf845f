"""The placement engine in a simulation: the part that ``scheduler.py`` plays under xdist, on a virtual
clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.events import (
    Abandoned,
    BackendRefusedThere,
    Command,
    Event,
    LaunchObserved,
    LoadObserved,
    NodeLost,
    NodeUp,
    Prewarm,
    Run,
    RunObserved,
    TestFinished,
    TestsCollected,
    TestStarted,
    Unrunnable,
)
from pytest_browserpool.placement.history import History, Sample
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.simulation.truth import Began, Clock, Ran, Truth
from pytest_browserpool.simulation.workload import FAMILY, SimEvent, SimNode, SimTest, Workload
from pytest_browserpool.values import (
    BACKENDS,
    BackendSupport,
    BrowserCapabilities,
    ModelNeeds,
    NodeCapabilities,
    TestNeeds,
)

STEP_ITERATIONS = 120
"""Search iterations after each test: about a millisecond, which a node spends between two tests anyway."""
OCCASIONS = 2_000
"""Times at most that the search is called in one simulation: with more tests, not after each of them."""
KNOWN_FOR_SURE = 1000
"""Count behind a value of a warm history: it is the true mean."""


@dataclass
class OurRun:
    """Drives one engine through one workload; ``run`` once, then read the fields."""

    workload: Workload
    seed: int = 0
    config: EngineConfig | None = None
    step_iterations: int = STEP_ITERATIONS
    history: History | None = None
    """What the engine is told of earlier runs; None: what the workload says."""
    failed: list[str] = field(default_factory=list)
    decision_s: list[float] = field(default_factory=list)
    planning_s: float = 0.0

    def __post_init__(self) -> None:
        self.truth = Truth(self.workload, self.seed)
        self.clock = Clock()
        config = self.config or EngineConfig(expected_nodes=len(self.workload.nodes), seed=self.seed)
        told = known(self.workload) if self.workload.history == "warm" else None
        self.engine = PlacementEngine(config, self.history or told)
        self.current: dict[str, Ran] = {}
        self.up: set[str] = set()
        self.serial: dict[str, int] = {}

    def run(self) -> None:
        """From the first node to the last test."""
        late = self.workload.late
        self._tell(*self._refusals())
        for node in self.workload.nodes:
            if node.id not in late:
                self._join(node)
        began = time.perf_counter()
        commands = self.engine.handle(
            TestsCollected(at=0.0, tests=tuple(needs_of(self.workload, t) for t in self.workload.tests))
        )
        self.planning_s += time.perf_counter() - began
        self._carry_out(commands)
        self._improve(self.step_iterations)
        for event in self.workload.events:
            self.clock.at(event.at, lambda event=event: self._event(event))  # type: ignore[misc]
        self.clock.run()

    # -- telling the engine and doing what it says -----------------------------------------------------------

    def _tell(self, *events: Event) -> None:
        for event in events:
            began = time.perf_counter()
            commands = self.engine.handle(event)
            self.decision_s.append(time.perf_counter() - began)
            self._carry_out(commands)

    def _improve(self, iterations: int) -> None:
        began = time.perf_counter()
        commands = self.engine.improve(iterations) if iterations else []
        self.planning_s += time.perf_counter() - began
        self._carry_out(commands)

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Run():
                    self._start(command)
                case Prewarm():
                    if command.backend is not None and command.test is not None:
                        model = self.truth.tests[command.test].model
                        self.truth.prewarm(
                            command.node, command.browser, command.backend, model, self.clock.now
                        )
                case Unrunnable() | Abandoned():
                    self.failed.append(command.test)
                case _:
                    pass

    def _start(self, command: Run) -> None:
        now, node = self.clock.now, self.truth.nodes[command.node]
        test = self.truth.tests[command.test]
        assert command.browser is not None, "a simulated test has a model"
        assert command.backend is not None, "a simulated test has a model"
        assert node.id not in self.current, f"{node.id} runs {self.current[node.id].test}"
        began = self.truth.begin(test, node, command.browser, command.backend, now)
        ran = Ran(
            test=test.id,
            node=node.id,
            browser=command.browser,
            backend=command.backend,
            start=now,
            end=now + began.seconds,
            setup=began.setup,
        )
        self.current[node.id] = ran
        serial = self.serial[node.id] = self.serial.get(node.id, 0) + 1
        self._tell(TestStarted(at=now, node=node.id, test=test.id))
        self._report_setup(ran, began, serial)
        self.clock.at(ran.end, lambda: self._end(ran, began, serial))

    def _report_setup(self, ran: Ran, began: Began, serial: int) -> None:
        def tell(event: Event) -> None:
            if self.serial[ran.node] == serial:
                self._tell(event)

        ready = ran.start + ran.setup
        if began.launch:
            at = max(ran.start, ready - began.load)
            launched = LaunchObserved(at=at, node=ran.node, browser=ran.browser, seconds=began.launch)
            self.clock.at(at, lambda: tell(launched))
        if began.load:
            loaded = LoadObserved(
                at=ready,
                node=ran.node,
                browser=ran.browser,
                backend=ran.backend,
                model=began.model,
                seconds=began.load,
                test=ran.test,
            )
            self.clock.at(ready, lambda: tell(loaded))

    def _end(self, ran: Ran, began: Began, serial: int) -> None:
        if self.serial[ran.node] != serial or ran.node not in self.up:
            return
        del self.current[ran.node]
        self.truth.trace.append(ran)
        now = self.clock.now
        self._tell(
            RunObserved(
                at=now,
                node=ran.node,
                browser=ran.browser,
                backend=ran.backend,
                model=began.model,
                seconds=began.run,
                test=ran.test,
            ),
            TestFinished(at=now, node=ran.node, test=ran.test, seconds=began.seconds),
        )
        if len(self.truth.trace) % max(1, len(self.truth.tests) // OCCASIONS) == 0:
            self._improve(self.step_iterations)

    # -- nodes -----------------------------------------------------------------------------------------------

    def _join(self, node: SimNode) -> None:
        self.up.add(node.id)
        self._tell(NodeUp(at=self.clock.now, capabilities=capabilities(node)))

    def _event(self, event: SimEvent) -> None:
        node = self.truth.nodes[event.node]
        if event.kind == "slow":
            self.truth.slow(node.id, event.factor)
        elif event.kind == "join" and node.id not in self.up:
            self._join(node)
            self._improve(self.step_iterations)
        elif event.kind == "lost" and node.id in self.up:
            self.up.discard(node.id)
            self.current.pop(node.id, None)
            self.serial[node.id] = self.serial.get(node.id, 0) + 1
            self.truth.lose(node.id)
            back = any(
                e.kind == "join" and e.node == node.id and e.at > event.at for e in self.workload.events
            )
            self._tell(NodeLost(at=self.clock.now, node=node.id, reason="simulated", replaced=back))
            self._improve(self.step_iterations)

    def _refusals(self) -> list[BackendRefusedThere]:
        """What the models cannot do: no time given for a browser and backend means that it does not run
        there."""
        given = {
            (b, backend) for n in self.workload.nodes for b, x in n.browsers.items() for backend in x.backends
        }
        return [
            BackendRefusedThere(at=0.0, browser=browser, backend=backend, model=model.id)
            for model in self.workload.models.values()
            for browser, backend in sorted(given)
            if (browser, backend) not in model.run_s
        ]


def capabilities(node: SimNode) -> NodeCapabilities:
    """What ``node`` would report of itself."""
    return NodeCapabilities(
        node=node.id,
        host=node.id,
        memory_gib=node.memory_gib,
        browsers=tuple(
            BrowserCapabilities(
                name=name,
                family=FAMILY.get(name, name),
                version="1",
                backends=tuple(BackendSupport(name=b, available=b in browser.backends) for b in BACKENDS),
            )
            for name, browser in node.browsers.items()
        ),
    )


def needs_of(workload: Workload, test: SimTest) -> TestNeeds:
    model = workload.models[test.model]
    return TestNeeds(
        nodeid=test.id,
        needs=ModelNeeds(
            source=model.id,
            type=model.type or None,
            browsers=test.browsers,
            backends=test.backends,
            min_memory=model.memory_gib or None,
            priority=test.priority,
        ),
    )


def known(workload: Workload) -> History:
    """A history that knows every mean of ``workload``, and none of its noise."""

    def sure(value: float) -> Sample:
        return Sample(value, KNOWN_FOR_SURE)

    return History(
        node_launches={(n.id, b): sure(x.launch_s) for n in workload.nodes for b, x in n.browsers.items()},
        loads={(*pair, m.id): sure(s) for m in workload.models.values() for pair, s in m.load_s.items()},
        runs={(*pair, m.id): sure(s) for m in workload.models.values() for pair, s in m.run_s.items()},
        scales={t.id: sure(t.run_scale) for t in workload.tests},
        speeds={n.id: sure(n.speed) for n in workload.nodes},
    )
