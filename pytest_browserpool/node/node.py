"""The browser runtime of one process, as its tests see it: synchronous, every call with a deadline.

The pool lives in one event loop on a thread of its own. Tests call in through ``Node``; nothing of the pool is touched
from another thread.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool import machine
from pytest_browserpool.artefacts import pins, runtime
from pytest_browserpool.browsers import catalogue, choice, gpu, probe
from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.pool import ModelContent, Pool, stamps_of
from pytest_browserpool.browsers.processes import Workdir, sweep
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import BrowserPoolError, DeadlineExceeded, hide_from_traceback
from pytest_browserpool.models.inspect import (
    ModelInfo,
    check_shapes,
    inspect,
    static_name,
    with_static_shapes,
)
from pytest_browserpool.models.lock import LockFile
from pytest_browserpool.models.shipping import Depot
from pytest_browserpool.models.sources import ModelFile, describe, resolve
from pytest_browserpool.node import warm
from pytest_browserpool.node.journal import Operation
from pytest_browserpool.node.loop import NodeLoop
from pytest_browserpool.node.peers import Peers
from pytest_browserpool.node.recovering import Recovery
from pytest_browserpool.node.reporting import Reporter
from pytest_browserpool.node.resident import Refusals, Reply, Resident
from pytest_browserpool.node.session import close_all
from pytest_browserpool.node.sharded import ShardedResident
from pytest_browserpool.node.use import ModelUse, RunningTest, TestUse
from pytest_browserpool.node.ways import Hint, ways
from pytest_browserpool.recovery.strategies import STRATEGIES, Strategy
from pytest_browserpool.sharding import threads
from pytest_browserpool.values import ModelNeeds, NodeCapabilities

if TYPE_CHECKING:
    from pytest_browserpool.markers import ModelRequest

Emit = Callable[[dict[str, Any]], None]
__tracebackhide__ = hide_from_traceback

RECOVERY_SECONDS = 60.0
"""The longest recovery (priorities 3 to 5); an attempt that needs more gets more (recovery.limits.default_limit)."""

CLOSED = "the run is over; its browsers are closed"

SETTLE_SECONDS = 5.0
"""Between checks of memory: each reads a file per process of every browser."""


class Node(NodeLoop):
    """See the module. ``emit`` takes messages for the controller, from any thread."""

    def __init__(
        self,
        settings: Settings,
        node_id: str,
        emit: Emit,
        neighbours: int | None = None,
        strategies: Mapping[str, Strategy] = STRATEGIES,
    ) -> None:
        """``neighbours``: nodes on this machine, which share its memory and cores; all of the run if not given."""
        super().__init__(node_id)
        self.settings = settings
        self.report = Reporter(node_id, emit)
        self.test: RunningTest | None = None
        self._workers = neighbours or max(1, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
        self.cores = threads.cores_of(os.cpu_count() or 1, self._workers)
        self._lock = threading.RLock()
        self._stack = contextlib.ExitStack()
        self._pool: Pool | None = None
        self._closed = False
        self._workdir: Workdir | None = None
        self._capabilities: NodeCapabilities | None = None
        self._installed: tuple[catalogue.InstalledBrowser, ...] | None = None
        self._refusals: Refusals = {}
        self.recovery = Recovery(settings, self.report, lambda: self.pool, lambda: self.test, strategies)
        self._models: dict[str, tuple[ModelContent, ModelInfo]] = {}
        self._residents: list[Resident | ShardedResident] = []
        self.peers: Peers | None = None
        """The way to other nodes of the run, where there may be some; ``depot`` has what is sent to them."""
        self.depot: Depot | None = None
        self.expected: Sequence[ModelNeeds] = ()
        """What the tests of the run ask for, where it is known before the first: which onnxruntime-web the pages take."""
        self._settled = time.monotonic()
        self.last_page_ms = 0.0
        """Milliseconds of the latest ``session.run``, measured in the page: what a benchmark takes off a call."""

    # -- what is here -----------------------------------------------------------------------------------------------

    @property
    def installed(self) -> tuple[catalogue.InstalledBrowser, ...]:
        """The browsers of this machine that the settings allow.

        Raises:
            NoBrowser: there is none, with the command that would bring each.
        """
        if self._installed is None:
            self._installed = catalogue.select(catalogue.discover(self.settings), self.settings.browsers)
        return self._installed

    def capabilities(self) -> NodeCapabilities:
        """What this node has; browsers that were never probed on this machine are launched for it, once."""
        with self._lock:
            if self._capabilities is None:
                import psutil

                self._capabilities = NodeCapabilities(
                    node=self.node_id,
                    host=socket.gethostname(),
                    machine=machine.identity(),
                    cores=os.cpu_count() or 1,
                    memory_gib=psutil.virtual_memory().total
                    / (1 << 30)
                    * self.settings.memory_share
                    / self._workers,
                    gpu=gpu.name(),
                    max_browsers=self.settings.max_browsers,
                    browsers=tuple(probe.probe_all(self.installed, self.settings)),
                    cached_models=pins.default_cache().models(),
                )
            return self._capabilities

    # -- the loop ---------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        """The pool, started on first use.

        Raises:
            RuntimeError: the node is closed: a pool of a test that goes on until it is interrupted would be nobody's.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if self._pool is None:
                self._start()
            assert self._pool is not None
            return self._pool

    def _start(self) -> None:
        capabilities = self.capabilities()
        sweep()
        self._workdir = Workdir()
        self._stack.callback(self._workdir.close)
        portal = self._begin_loop(self._stack)
        self._pool = Pool(
            self.settings,
            self.installed,
            runtime.directory_of(self.settings),
            self._workdir,
            threads=threads.of_whole(self.cores),
            memory_limit=int(capabilities.memory_gib * (1 << 30)),
            emit=self.report.pool_event,
        )
        self._pool.running.whole = choice.beyond_wasm(self.expected, capabilities.browsers)
        portal.call(self._pool.start)

    # -- tests ------------------------------------------------------------------------------------------------------

    def begin_test(self, nodeid: str, browser: str | None = None, backend: str | None = None) -> None:
        """The test that models and leases belong to from now on, with the scheduler's choice where there is one."""
        self.test = RunningTest(nodeid, hint=(browser, backend) if browser else None)

    def end_test(self, *, failed: bool = False) -> TestUse | None:
        """What the test used. Its models stay warm, its hold on them ends. A failed test gets console and screenshot."""
        test, self.test = self.test, None
        if test is None:
            return None
        residents, self._residents = self._residents, []
        console: list[str] = []
        errors: list[str] = []
        screenshot: str | None = None
        for resident in residents:
            for page in [loaded.page for loaded in resident.everywhere if failed]:
                console += page.channel.console
                errors += page.channel.errors
                picture = self.call(page.screenshot, 10.0) if screenshot is None else None
                screenshot = base64.b64encode(picture).decode() if picture else screenshot
            close_all(self, resident)
            resident.pin(None)
        console += test.lease_console
        use = test.summary(
            console=tuple(console), page_errors=tuple(errors), screenshot=screenshot or test.lease_screenshot
        )
        self.report.test_ended(test)
        self._settle()
        return use

    def _settle(self) -> None:
        if self._pool is None or self._portal is None:
            return
        broken = any(not i.usable or any(p.lost for p in i.pages.values()) for i in self._pool.instances)
        if broken or time.monotonic() - self._settled > SETTLE_SECONDS:
            self._settled = time.monotonic()
            self._portal.start_task_soon(self._pool.settle)  # beside the next test's own preparations

    # -- models -----------------------------------------------------------------------------------------------------

    def resolve(self, source: Any, test_file: Path | None) -> tuple[ModelContent, ModelInfo]:
        """The model's checked file and what it declares. Fetched where it is not cached; no browser is involved."""
        rootdir = Path(self.settings.rootdir)
        cache = pins.default_cache()
        lock = LockFile.of(rootdir, cache)
        file: ModelFile = resolve(source, test_file=test_file, rootdir=rootdir, lock=lock, cache=cache)
        known = self._models.get(file.sha256)
        stamps = stamps_of(file.path, file.external)
        # the first file of this content may hold another by now
        if known is None or (known[0].path, known[0].stamps) != (file.path, stamps):
            content = ModelContent(file.sha256, file.path, file.label, file.size, file.external, stamps)
            known = self._models[file.sha256] = (content, inspect(file.path))
        if known[0].label != file.label:  # another test wrote the same model another way
            return dataclasses.replace(known[0], label=file.label), known[1]
        return known

    def load(self, needs: ModelNeeds, source: Any, test_file: Path | None) -> Resident:
        """A model, placed in the first browser and backend that really run it. WebNN with open shapes waits for a call.

        Raises:
            UsageError, CapabilityError: see ``errors``. Fault: the infrastructure failed.
        """
        content, info = self.resolve(source, test_file)
        # on every backend: one that needs no shapes would never find a wrong name
        check_shapes(info, needs.input_shapes or {}, where=content.label)
        test = self.test or RunningTest("")
        use = ModelUse(key=needs.model_key or describe(source), label=content.label, sha256=content.sha256)
        resident = self._resident(needs, content, info, use, test.hint)
        self.hold(resident)
        self.recovery.guard(resident)
        if not resident.waits_for_shapes:
            self.ensure(resident)
        return resident

    def hold(self, resident: Resident | ShardedResident) -> None:
        """The running test holds the model until its end."""
        if self.test is not None:
            self.test.models.append(resident.use)
        self._residents.append(resident)
        self.report.model(resident.content, resident.needs)

    def _resident(
        self,
        needs: ModelNeeds,
        content: ModelContent,
        info: ModelInfo,
        use: ModelUse,
        hint: Hint | None,
    ) -> Resident:
        pool = self.pool
        weighed = ways(pool, self.capabilities(), self.settings, needs, content, hint)
        if hint is None:
            self.report.decision(self.test, weighed)  # nobody chose before: this is where the reasons are

        def refused(candidate: Candidate, error: BrowserPoolError) -> None:
            self.report.refused(candidate.browser, candidate.backend, use.key, error)

        return Resident(
            pool,
            needs,
            content,
            info,
            [candidate for _, candidate in weighed],
            use,
            self._refusals,
            self.static,
            refused,
            self._loaded,
            self.recovery,
        )

    def ensure(self, resident: Resident | ShardedResident) -> None:
        """Sessions for a model whose shapes are known, on the record."""
        started = time.time()
        resident.use.operation = Operation("load")
        if isinstance(resident, Resident) and resident.take_warm():
            return
        try:
            self.call(resident.place, self.budget(resident))
        except BrowserPoolError as error:
            latency = (time.time() - started) * 1000
            self.report.operation(self.test, resident, "load", started, latency, error=error)
            raise

    def _loaded(self, resident: Resident, started: float, latency_ms: float) -> None:
        """A session was found or made: at the test's begin, at a first call, after a fault."""
        found = self.capabilities().browser(resident.use.browser)
        support = next((b for b in found.backends if b.name == resident.use.backend), None) if found else None
        resident.use.adapter = (
            str(support.adapter) if support is not None and support.adapter is not None else ""
        )
        warm = resident.loaded is not None and resident.loaded.warm
        test = None if resident.ahead else self.test
        if resident.ahead and not warm:
            use = resident.use
            self.report.event("SessionMade", browser=use.browser, backend=use.backend, model=use.key)
        self.report.operation(test, resident, "load", started, latency_ms, warm=warm)

    def budget(self, resident: Resident | ShardedResident) -> float:
        """Seconds that an operation may take with everything that recovery may do: what bounds it are inner deadlines."""
        if isinstance(resident, ShardedResident):
            return resident.budget
        attempt = resident.needs.timeout * 2 + self.settings.launch_timeout  # a load, then a run
        return attempt + max(RECOVERY_SECONDS, attempt)

    def static(self, content: ModelContent, shapes: Mapping[str, Sequence[int]]) -> Path:
        """The file of the same graph with its shapes fixed; made once for each run."""
        assert self._workdir is not None
        path = self._workdir.path / static_name(content.sha256, shapes)
        if not path.exists():
            path.write_bytes(with_static_shapes(content.path, shapes))
        return path

    def run(self, resident: Resident | ShardedResident, inputs: Mapping[str, Any]) -> Reply:
        """One call of a loaded model."""
        reply = self.report.called(
            self.test, resident, time.time(), inputs, lambda: warm.run(self, resident, inputs)
        )
        self.last_page_ms = reply.page_ms
        return reply

    def benchmark(
        self, resident: Resident | ShardedResident, inputs: Mapping[str, Any], runs: int
    ) -> list[float]:
        """Milliseconds of ``runs`` inferences, timed in the page."""
        budget = self.budget(resident) + resident.needs.timeout * runs
        started = time.time()
        times: list[float] = self.call(lambda: resident.benchmark(inputs, runs), budget)
        self.report.benchmark(self.test, resident, started, times)
        return times

    def reload(self, resident: Resident | ShardedResident) -> None:
        """Makes the model's session anew."""
        self.call(resident.reload, self.budget(resident))

    # -- ahead of tests ---------------------------------------------------------------------------------------------

    def prewarm(self, browser: str, backend: str | None, request: ModelRequest | None) -> None:
        """Launches the browser and loads the model of a test that comes next, beside the running one."""
        pool = self.pool
        sharded = request is not None and (request.needs.shards or 1) > 1  # its browsers are its own choice
        if request is None or request.source is None or backend is None or sharded:
            self.call(lambda: pool.browser(browser), self.settings.launch_timeout)
            return
        content, info = self.resolve(request.source, request.test_file)
        use = ModelUse(key=request.needs.model_key, label=content.label, sha256=content.sha256)
        resident = self._resident(request.needs, content, info, use, (browser, backend))
        resident.ahead = True
        if not resident.waits_for_shapes:
            try:
                self.call(lambda: resident.ensure(None), self.budget(resident))
            finally:
                resident.pin(None)

    def retire(self, browser: str) -> None:
        """Closes a browser that nothing more will need, unless it is in use."""
        pool = self.pool
        self.call(lambda: pool.running.retire_idle(browser), self.settings.launch_timeout)

    def resize(self, size: int, most: int, soon: frozenset[str]) -> None:
        """Follows the scheduler's advice on how many browsers to keep."""
        pool = self.pool
        self.call(lambda: pool.running.resize(size, most, soon), self.settings.launch_timeout)

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the browsers and ends the loop; what does not end by itself is killed."""
        with self._lock:
            self.report.flush()
            pool, self._pool, self._closed = self._pool, None, True
            try:
                if pool is not None:
                    with contextlib.suppress(DeadlineExceeded):
                        self.call(pool.close, 30.0)
            finally:
                self._stack.close()
            self.report.flush()
