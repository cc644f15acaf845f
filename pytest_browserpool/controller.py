"""The controller's side: opens the link to each node, feeds the scheduler, reports what no node can, keeps the record."""

from __future__ import annotations

import functools
import json
import socket
import threading
import time
import uuid
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_browserpool import __version__, alone, link, outcomes, worker
from pytest_browserpool.advice import PoolAdviser
from pytest_browserpool.fleet import Fleet
from pytest_browserpool.hearing import Hearing
from pytest_browserpool.heartbeat import Watch
from pytest_browserpool.ledger import Ledger
from pytest_browserpool.link import Message
from pytest_browserpool.models import shipping
from pytest_browserpool.observer import Observer
from pytest_browserpool.placement import events
from pytest_browserpool.preferences import browser_nodes_of, prefer_of
from pytest_browserpool.remote import Paths, is_elsewhere, machine_of
from pytest_browserpool.report import details
from pytest_browserpool.report.crashed import close_crashed_row
from pytest_browserpool.report.live import LiveView
from pytest_browserpool.sink import FINISHED, RunSink
from pytest_browserpool.switchboard import Switchboard

if TYPE_CHECKING:
    from pytest_browserpool.config import Settings
    from pytest_browserpool.keywords import Words
    from pytest_browserpool.placement.engine import PlacementEngine
    from pytest_browserpool.scheduler import BrowserPoolScheduling

PLUGIN = "browserpool-controller"

TICK = 1.0
"""Seconds between ticks: short beside a heartbeat's time-out, nothing beside a test."""

OURS_REPLACES = ("load", "worksteal")
"""xdist's schedulers that balance load; the others keep tests together as the user asked, and stay."""

LOOKS = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")
"""Pytest's options that show what a suite is, and run nothing of it: editors ask so at each keystroke."""

IMPROVE_SECONDS = 0.02
"""What improving the plan may take of each second: a test's end waits for it at most that long."""

IMPROVE_ITERATIONS = 2000
"""At most in one tick: what the search has not found with some of these, it finds in a later one or not at all. One takes
10 µs, but a millisecond where thousands of tests are alike; hence the time too."""


class Controller:
    """Plugin of the process that holds the run: xdist's controller, or pytest itself without ``-n``."""

    def __init__(self, config: pytest.Config, settings: Settings, words: Words, *, distributed: bool) -> None:
        self.config, self.settings, self.words, self.distributed = config, settings, words, distributed
        self.run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self.ledger = Ledger(settings, self.run_id)
        self.hearing = Hearing(self.ledger)
        self.scheduler: BrowserPoolScheduling | None = None
        self.engine: PlacementEngine | None = None
        self._observer: Observer | None = None
        self._adviser: PoolAdviser | None = None
        self._gate: outcomes.ReportGate | None = None
        self._watch = Watch(settings.heartbeat_timeout)
        self._down: dict[str, str] = {}
        self._exit: int | None = None
        self._sink = RunSink(
            config,
            self.ledger,
            skip_missing=settings.missing == "skip",
            chosen=settings.browsers,
            down=self._down,
            troubles=self.hearing.troubles,
            warn=self.warn,
        )
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None
        self._fleet: Fleet | None = None
        self._words = details.Words()
        self._depot = shipping.Depot(config.rootpath, settings.own_runtime)
        self._switchboard = Switchboard()

    @property
    def schedules(self) -> bool:
        """Whether our scheduler is in charge of this run."""
        return self.distributed and self.settings.scheduler and self.config.option.dist in OURS_REPLACES

    @property
    def dsession(self) -> Any:
        return self.config.pluginmanager.getplugin("dsession")

    # -- the run ---------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        scheduler = (
            "browserpool" if self.schedules else (self.config.option.dist if self.distributed else "none")
        )
        arguments = json.dumps([str(argument) for argument in self.config.invocation_params.args])
        self.ledger.begin(
            arguments=arguments,
            scheduler=scheduler,
            host=socket.gethostname(),
            version=__version__,
            kept=not any(getattr(self.config.option, name, False) for name in LOOKS),
        )
        if self.settings.learn and not self.schedules:
            self.warn(
                "--browserpool-learn needs our scheduler, so nothing is learned in this run: add -n or --tx"
            )
        if not self.distributed:
            self.ledger.only_node(self.settings.memory_share)
            self._watch_alone()
            return
        self.dsession.worker_browserpool = self.hearing.from_node
        self.dsession.worker_browserpool_tick = self._on_tick
        self._timer = threading.Thread(target=self._tick, name="browserpool-timer", daemon=True)
        self._timer.start()

    def _watch_alone(self) -> None:
        if self.config.option.collectonly:
            return
        view = alone.AloneView(self.config, self.ledger, worker.side_of(self.config).where)
        self.config.pluginmanager.register(view, alone.PLUGIN)
        self.hearing.show(view)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """After xdist's loop: say of each test that was never run why it was not. Who stopped the run knows."""
        stopped = False
        try:
            return (yield)
        except (KeyboardInterrupt, pytest.exit.Exception):
            stopped = True
            raise
        finally:
            if self._gate is not None:
                self._gate.end()
            if not stopped:
                self._report_what_is_left()
            if (
                self.scheduler is not None
            ):  # xdist goes by the node that collected last, which may lack all tests
                session.testscollected = max(session.testscollected, self.scheduler.collected)

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """After the node's side of this process, which was registered later, and before pytest-html
        writes."""
        self._stop.set()
        if self._timer is not None:
            self._timer.join(timeout=5.0)
        if self._fleet is not None:
            self._fleet.close()
        if self._observer is not None:
            self._observer.end()
        if self._exit is not None:  # a test said what it is to be, as it may without nodes
            session.exitstatus = exitstatus = self._exit
        self.ledger.end(int(exitstatus))

    def _report_what_is_left(self) -> None:
        dsession = self.dsession
        if self.scheduler is None or dsession.shouldstop:
            return  # -x leaves tests out on purpose, and pytest says so
        reason = dsession._summary_report or "no node was left to run it"
        for test in self.scheduler.unreported:
            losses = self.ledger.losses[test]
            story = "".join(f"\n  {loss}" for loss in losses)
            said = f"lost, and not tried again: {reason}{story}" if losses else f"not run: {reason}"
            self._sink.publish(outcomes.failed(test, said, crashed=bool(losses)))

    # -- nodes -----------------------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: list[Any]) -> None:
        """Before xdist makes its nodes: connect to those on other machines; leave out what cannot be reached."""
        paths = Paths(rootdir=config.rootpath, cwd=config.invocation_params.dir)
        self._fleet = Fleet(
            self.dsession,
            paths,
            timeout=self.settings.connect_timeout,
            say=self._say,
            warn=self.warn,
            given_up=self._given_up,
            proven=self.hearing.proven,
        )
        self._fleet.begin(specs)

    def _given_up(self, name: str) -> None:
        self._switchboard.expected -= 1
        if self.scheduler is not None and self.engine is not None:
            self.scheduler.expect_fewer(max(0, (self.engine.book.more or 0) - 1))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        link.serialise_writes(node.gateway)
        channel = node.gateway.newchannel()
        node.browserpool_channel = channel
        settings = link.settings_for(node.gateway.spec, self.settings, self.words)
        plain = link.worker_input(channel, settings, self.words, node.gateway.id, self.run_id)
        elsewhere = is_elsewhere(node.gateway.spec)
        machine = machine_of(node.gateway.spec)
        neighbours = sum(machine_of(spec) == machine for spec in self.dsession.nodemanager.specs)
        node.workerinput[link.INPUT] = plain | {
            "own_loop": self.schedules,
            "elsewhere": elsewhere,
            "neighbours": max(1, neighbours),
        }
        self._watch.expect(node)
        self._switchboard.joined(node.gateway.id, functools.partial(link.send, channel))
        channel.setcallback(lambda message: self._receive(node, message))

    def _receive(self, node: Any, message: Message) -> None:
        """On the gateway's receiver thread: note the sign of life, leave the rest to the main thread."""
        self._watch.heard(node)
        name, kind = node.gateway.id, message["kind"]
        if kind == link.TOLD:
            for part in link.parts_of(message):
                if isinstance(part, tuple):
                    node.process_from_remote(part)
                else:
                    self._queue(node, part)
            return
        if kind in shipping.KINDS_FROM_NODE:
            self._depot.hear(name, message, lambda answer: link.send(node.browserpool_channel, answer))
            return
        if kind == link.PEER:
            self._switchboard.hear(name, message)
            return
        if kind == "capabilities":
            self._switchboard.knows(name, message["value"])
        if kind == "beat" and is_elsewhere(node.gateway.spec):
            # on this thread, which is this node's alone: a link that is cut may block it
            link.send(node.browserpool_channel, {"kind": "beat"})
        self._queue(node, message)

    def _queue(self, node: Any, message: Message) -> None:
        self.dsession.queue.put(("browserpool", {"node": node, "message": message}))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        self.ledger.node_up(node.gateway.id, python=".".join(map(str, node.workerinfo["version_info"][:3])))

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        name = node.gateway.id
        self._watch.forget(node)
        self._switchboard.lost(name)
        self._ended_early(node, error)
        self._exit = getattr(node, "workeroutput", {}).get(link.EXIT, self._exit)
        reason = self._down.setdefault(name, str(error) if error else FINISHED)
        phases = [f"{rep.when} {rep.outcome}" for rep in self._gate.drop(node)] if self._gate else []
        test = self.scheduler.holds(node) if self.scheduler is not None and error else None
        if test is not None:
            self.ledger.losses[test].append(
                f"{name}: {reason}" + (f" after {', '.join(phases)}" if phases else "")
            )
            self._say(f"{name} was lost while it ran {test}: {reason}")
        self.ledger.node_down(name, reason, lost=bool(error), test=test or "")

    def _ended_early(self, node: Any, error: object) -> None:
        """A node that ended by itself before it had collected (a wrong argument, no suite there) is waited for no
        more; xdist replaces only those that were lost."""
        if error or self._fleet is None:
            return
        name, status = node.gateway.id, getattr(node, "workeroutput", {}).get("exitstatus", "?")
        if node not in self.hearing.proven and not self._sink.stopping():
            self._fleet.give_up(name, f"{name} ended with exit status {status} before any test")
        elif status == pytest.ExitCode.USAGE_ERROR:
            self.warn(f"{name} ran nothing: a file or test that was asked for is not there")

    def _say(self, line: str) -> None:
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if terminal is not None and self.config.option.verbose >= 0:
            terminal.ensure_newline()
            terminal.write_line(f"browserpool: {line}")

    def warn(self, line: str) -> None:
        """A line that ``-q`` does not hide: the run is not the one that was asked for."""
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"browserpool: {line}", red=True, bold=True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> Any:
        if not self.schedules:
            return None
        from pytest_browserpool.placement.engine import PlacementEngine
        from pytest_browserpool.placement.policy import EngineConfig
        from pytest_browserpool.scheduler import BrowserPoolScheduling

        expected = self._switchboard.expected = len(self.dsession.nodemanager.specs)
        self.engine = PlacementEngine(
            EngineConfig(
                expected_nodes=expected,
                memory_share=1.0,  # nodes report what of their memory is for browsers
                min_browsers=self.settings.redundancy,  # a standby is in no plan
                pool_cool_down_s=self.settings.pool_cool_down,
                preferences=prefer_of(self.settings.applied),
                browser_nodes=browser_nodes_of(self.settings.applied, expected),
                learn=self.settings.learn,
            ),
            self.ledger.history(),
        )
        self._observer = Observer(self.ledger, self.engine, LiveView(config))
        self._adviser = PoolAdviser(self.engine, self.ledger, self._sink.tell)
        self.scheduler = self._sink.scheduler = BrowserPoolScheduling(
            config, nodes=expected, handle=self._observer.handle, sink=self._sink
        )
        self.hearing.attach(self.scheduler, self._observer)
        self._install_gate()
        return self.scheduler

    def _install_gate(self) -> None:
        dsession = self.dsession
        complete = dsession.worker_runtest_protocol_complete
        gate = self._gate = outcomes.ReportGate(dsession.worker_testreport)

        def on_complete(node: Any, item_index: int, duration: float) -> None:
            """A node waits for its next test: where all went well, what reporters do with this one comes after that."""
            passed = gate.passed(node)
            if not passed:  # one more failure may be the last that is wanted
                gate.on_complete(node)
            complete(node=node, item_index=item_index, duration=duration)
            if passed:
                gate.on_complete(node)

        dsession.worker_testreport = gate.on_report
        dsession.worker_runtest_protocol_complete = on_complete

    @pytest.hookimpl(wrapper=True)
    def pytest_report_from_serializable(self, data: dict[str, Any]) -> Generator[None, object, object]:
        self._words.of_report(data)
        return (yield)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Under xdist's own schedulers: make the report of a crash one that the reporters understand."""
        if not self.schedules:
            close_crashed_row(report)

    # -- time ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """The timer's thread. It cuts silent nodes off itself: the main thread may be blocked writing to
        one."""
        while not self._stop.wait(TICK):
            for node in self._watch.silent():
                self._down[node.gateway.id] = f"ended by us, silent for {self.settings.heartbeat_timeout:g} s"
                link.cut(node.gateway)
            self.dsession.queue.put(("browserpool_tick", {}))

    def _on_tick(self) -> None:
        """Once a second, on the main thread: time has passed, and there is a little to spend on the plan."""
        if self._fleet is not None:
            self._fleet.tick()
        if self._gate is not None:
            self._gate.settle()
        if self._observer is not None:
            self._observer.tick()
        if self.scheduler is None or self.engine is None or self._sink.stopping():
            return
        self.scheduler.hear(events.Tick(at=time.monotonic()))
        if self._adviser is not None:
            self._adviser.tick(self.scheduler.nodes)
        if self.dsession.queue.empty() and not self._sink.stopping():
            until = time.perf_counter() + IMPROVE_SECONDS
            self.scheduler.carry_out(
                self.engine.improve(IMPROVE_ITERATIONS, lambda: time.perf_counter() > until)
            )

    # -- outcomes --------------------------------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ledger.report(report)
