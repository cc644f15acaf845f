"""Cost of decisions as tests and nodes grow; beside xdist's classes at the sizes that they finish in five minutes."""

from __future__ import annotations

import gc
import heapq
import itertools
import math
import multiprocessing
import random
import resource
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

from pytest_browserpool.placement.engine import PlacementEngine
from pytest_browserpool.placement.events import (
    Command,
    LoadObserved,
    NodeUp,
    Run,
    RunObserved,
    TestFinished,
    TestsCollected,
)
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.simulation.peers import PeerRun
from pytest_browserpool.simulation.workload import parse
from pytest_browserpool.values import (
    BackendSupport,
    BrowserCapabilities,
    ModelNeeds,
    NodeCapabilities,
    TestNeeds,
)

SIZES = ((1_000, 8), (10_000, 64), (100_000, 256), (1_000_000, 1_024))
MODELS = 200
PEER_LIMIT_S = 300.0
"""For one of xdist's classes and one size: worksteal looks at every node for every test that ends."""
SEARCH_MOVES = 100
SEARCH_EACH, SEARCHES = 64, 500
"""Search moves after every so many tests, but not more often than so many times in a run, as in the simulator: under
xdist it is once a second."""


def _stopwatch() -> float:
    """What reading the processor's clock twice costs by itself, in seconds."""
    readings = [time.thread_time() for _ in range(2001)]
    return statistics.median(b - a for a, b in itertools.pairwise(readings))


STOPWATCH_S = _stopwatch()


def node(name: str) -> NodeCapabilities:
    backends = tuple(BackendSupport(name=b, available=True) for b in ("webgpu", "wasm"))
    return NodeCapabilities(
        node=name,
        memory_gib=16.0,
        browsers=(
            BrowserCapabilities(name="chromium", family="chrome", version="1", backends=backends),
            BrowserCapabilities(name="firefox", family="firefox", version="1", backends=backends),
        ),
    )


class Loop:
    """The least that drives an engine: an event queue, true times, and a stopwatch around each event."""

    def __init__(self, tests: int, nodes: int, iterations: int) -> None:
        self.each = max(SEARCH_EACH, tests // SEARCHES)
        rng = random.Random(1)
        self.rng = rng
        self.iterations = iterations
        self.engine = PlacementEngine(EngineConfig(expected_nodes=nodes))
        self.seconds: list[float] = []
        self.heap: list[tuple[float, int, Run]] = []
        self.order = 0
        self.ran = 0
        self.planning = 0.0
        self.warm: set[tuple[str, str | None, str]] = set()
        wanted = (("chromium",), ("firefox",), ())
        self.models = {f"t{i}": f"m{rng.randrange(MODELS)}" for i in range(tests)}
        self.times = {name: rng.lognormvariate(0, 0.7) for name in self.models}
        needs = {
            (m, b): ModelNeeds(source=m, type="vision", browsers=b, backends=("wasm",))
            for m in set(self.models.values())
            for b in wanted
        }
        self.tests = tuple(
            TestNeeds(nodeid=n, needs=needs[m, rng.choice(wanted)]) for n, m in self.models.items()
        )
        self.nodes = [node(f"n{i}") for i in range(nodes)]

    def run(self, limit: float) -> None:
        """All tests, or as many as end within ``limit`` seconds."""
        until = time.perf_counter() + limit
        for capabilities in self.nodes:
            self.tell(NodeUp(at=0.0, capabilities=capabilities), 0.0)
        began = time.perf_counter()
        commands = self.engine.handle(TestsCollected(at=0.0, tests=self.tests))
        self.planning += time.perf_counter() - began
        self.obey(commands, 0.0)
        while self.heap and time.perf_counter() < until:
            now, _, run = heapq.heappop(self.heap)
            self.ended(run, now)

    def ended(self, run: Run, now: float) -> None:
        self.ran += 1
        place = {"at": now, "node": run.node, "browser": run.browser or "", "backend": run.backend or ""}
        model = self.models[run.test]
        if (run.node, run.browser, model) not in self.warm:
            self.warm.add((run.node, run.browser, model))
            self.tell(LoadObserved(**place, model=model, seconds=0.5, test=run.test), now)
        seconds = self.times[run.test]
        self.tell(RunObserved(**place, model=model, seconds=seconds, test=run.test), now)
        self.tell(TestFinished(at=now, node=run.node, test=run.test, seconds=seconds), now)
        if self.iterations and self.ran % self.each == 0:
            began = time.perf_counter()
            commands = self.engine.improve(self.iterations)
            self.planning += time.perf_counter() - began
            self.obey(commands, now)

    def tell(self, event: Any, now: float) -> None:
        # processor time: on a shared machine the clock on the wall would measure the others
        began = time.thread_time()
        commands = self.engine.handle(event)
        self.seconds.append(max(0.0, time.thread_time() - began - STOPWATCH_S))
        self.obey(commands, now)

    def obey(self, commands: list[Command], now: float) -> None:
        for command in commands:
            if isinstance(command, Run):
                self.order += 1
                cold = (command.node, command.browser, self.models[command.test]) not in self.warm
                seconds = self.times[command.test] + 0.5 * cold
                heapq.heappush(self.heap, (now + seconds, self.order, command))


def peer(kind: str, tests: int, nodes: int) -> tuple[float, float]:
    """(mean µs per decision, seconds in all) of one of xdist's classes on as many tests and nodes."""
    rng = random.Random(1)
    workload = parse(
        {
            "nodes": [
                {"id": f"n{i}", "browsers": {"chromium": {"launch_s": 0, "backends": ["wasm"]}}}
                for i in range(nodes)
            ],
            "models": {"m": {"load_s": {"chromium/wasm": 0.5}, "run_s": {"chromium/wasm": 1.0}}},
            "tests": [
                {"id": f"t{i}", "model": "m", "run_scale": rng.lognormvariate(0, 0.7)} for i in range(tests)
            ],
        }
    )
    run = PeerRun(workload, kind)
    began = time.perf_counter()
    run.run()
    return statistics.fmean(run.decision_s) * 1e6, time.perf_counter() - began


def peer_within(kind: str, tests: int, nodes: int, limit: float) -> tuple[float, float] | None:
    """As ``peer``, in a process of its own; None if it has not ended after ``limit`` seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_peer, args=(theirs, kind, tests, nodes), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(limit) else None
    finally:
        process.kill()
        process.join()


def _send_peer(pipe: Connection, kind: str, tests: int, nodes: int) -> None:
    pipe.send(peer(kind, tests, nodes))


def main(smallest: int, largest: int, limit: float = math.inf) -> None:
    gc.freeze()
    print(
        f"{'tests':>9} {'nodes':>6} {'events':>9} {'mean µs':>8} {'p50':>6} {'p99':>7} {'plan s':>7} {'all s':>7} {'MiB':>6}"
    )
    for tests, nodes in SIZES:
        if not smallest <= tests <= largest:
            continue
        began = time.perf_counter()
        loop = Loop(tests, nodes, SEARCH_MOVES)
        loop.run(limit)
        assert loop.ran == tests or limit < math.inf, f"{loop.ran} of {tests} ran"
        ordered = sorted(loop.seconds)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{tests:9} {nodes:6} {len(ordered):9} {statistics.fmean(ordered) * 1e6:8.1f} "
            f"{ordered[len(ordered) // 2] * 1e6:6.1f} {ordered[len(ordered) * 99 // 100] * 1e6:7.1f} "
            f"{loop.planning:7.1f} {time.perf_counter() - began:7.1f} {memory:6.0f}"
            + (f"  ({loop.ran} tests within the limit)" if loop.ran < tests else ""),
            flush=True,
        )
        del loop, ordered
        gc.collect()
        for kind in ("load", "worksteal"):
            found = peer_within(kind, tests, nodes, PEER_LIMIT_S)
            said = (
                f"mean {found[0]:.1f} µs a decision, {found[1]:.1f} s in all"
                if found
                else f"not at its end after {PEER_LIMIT_S:.0f} s"
            )
            print(f"    xdist {kind}: {said}", flush=True)
