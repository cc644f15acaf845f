"""The node's side: owns the browser runtime, tells the controller what it has and needs, and frames each
test."""

from __future__ import annotations

import dataclasses
import functools
import os
import socket
import sys
import threading
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_browserpool import aside, hooked, machine, markers
from pytest_browserpool.aside import Aside
from pytest_browserpool.errors import BrowserPoolError, ConfigurationError, NoBrowser, NoNode
from pytest_browserpool.heartbeat import Pulse
from pytest_browserpool.link import EXIT, INPUT, PEER, Message
from pytest_browserpool.report.junit import test_properties
from pytest_browserpool.runloop import RunLoop, find_interactor
from pytest_browserpool.told import Teller
from pytest_browserpool.unrunnable import in_a_line, in_full, insisted, no_node
from pytest_browserpool.values import ModelNeeds, NodeCapabilities

if TYPE_CHECKING:
    from pytest_browserpool.config import OwnRuntime, Settings
    from pytest_browserpool.models.shipping import Supplier
    from pytest_browserpool.node.exchange import Exchange
    from pytest_browserpool.node.node import Node

PLUGIN = "browserpool-node"
USE_KEY: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
"""On an item: what its test used, as plain values, from the end of its call on."""

TEARDOWN_LEAVES_OUT = ("screenshot", "console", "page_errors")
"""Not repeated in the teardown's report: they are large, and the call's report has them."""


def side_of(config: pytest.Config) -> NodeSide:
    """The node's side in this process. Only where tests run: a worker, or pytest without xdist's ``-n``."""
    side = config.pluginmanager.getplugin(PLUGIN)
    assert isinstance(side, NodeSide), "no tests run in this process"
    return side


def node_for(item: pytest.Item) -> Node:
    """The browser runtime of this process, started if need be and told that ``item`` has begun. For fixtures.

    Raises:
        MarkerError: the test's marker is wrong.
    """
    return side_of(item.config).node_for(item)


class NodeSide:
    """Plugin of a process that runs tests: an xdist worker, or pytest itself without ``-n``.

    ``send`` takes messages for the controller, from any thread.
    """

    def __init__(
        self, config: pytest.Config, settings: Settings, node_id: str, send: Callable[[Message], None]
    ) -> None:
        self.config, self.settings, self.node_id, self._direct = config, settings, node_id, send
        self._teller: Teller | None = None
        self._looping: pytest.Session | None = None
        self.distributed = hasattr(config, "workerinput")
        self.trouble = ""
        """Why this node has no browser at all."""
        self._node: Node | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._exchange: Exchange | None = None
        self._meeting = threading.Lock()
        self._begun: str | None = None
        self._keywords: Mapping[str, Any] = {}
        """Of the last report."""
        self._hints: dict[int, tuple[str | None, str | None]] = {}
        self._hint: tuple[str | None, str | None] | None = None
        self._items: dict[str, pytest.Item] = {}
        self._expected: list[ModelNeeds] = []
        self._pulse = Pulse(send, settings.heartbeat_timeout, self.close)
        self._supplier: Supplier | None = None
        """On another machine than the controller's: what brings its models here."""
        self._runtime_here = False
        """Whether the settings say where the run's onnxruntime-web is on another machine than the controller's."""
        self._wrong_runtime: ConfigurationError | None = None
        self._aside = Aside(lambda: self.node, lambda: self._items, self.send)

    def send(self, message: Message) -> None:
        """For the controller, from any thread."""
        if self._teller is None:
            self._direct(message)
        else:
            self._teller.send(message)

    # -- the browser runtime ---------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The runtime, created on first use: a suite without model tests starts nothing.

        Raises:
            ConfigurationError: this node's own build of onnxruntime-web is not the run's.
        """
        if self._node is None:
            self._bring_runtime()
        with self._lock:
            if self._node is None:
                from pytest_browserpool.node.node import CLOSED, Node
                from pytest_browserpool.recovery import strategies

                if self._closed:
                    raise RuntimeError(CLOSED)
                told = getattr(self.config, "workerinput", {}).get(INPUT, {})
                known = strategies.known(self.config.hook.pytest_browserpool_recovery_strategies())
                self._node = Node(self.settings, self.node_id, self.send, told.get("neighbours"), known)
                self._node.expected = self._expected
                if told.get("own_loop"):  # other schedulers end nodes before the run ends
                    self._node.peers, self._node.depot = self.exchange.peers, self.exchange.depot
            return self._node

    @property
    def exchange(self) -> Exchange:
        """What this node has to do with others, from the first word between them on."""
        with self._meeting:
            if self._exchange is None:
                from pytest_browserpool.node.exchange import Exchange

                self._exchange = Exchange(self.send, Path(self.settings.rootdir), lambda: self.node)
            return self._exchange

    def node_for(self, item: pytest.Item) -> Node:
        """See the function of the same name."""
        node = self.node
        if self._begun != item.nodeid:
            browser, backend = self._hint or (None, None)
            from pytest_browserpool.node.use import ASKED_BY

            ASKED_BY.set(item.nodeid)
            node.begin_test(item.nodeid, browser, backend)
            self._begun = item.nodeid
        return node

    def where(self) -> str:
        """browser/backend of the model that the running test loaded last, for who watches; empty before. From any
        thread."""
        test = self._node.test if self._node is not None else None
        found = [use for use in (test.models if test is not None else ()) if use.browser]
        return f"{found[-1].browser}/{found[-1].backend}" if found else ""

    def capabilities(self, *, probe: bool) -> NodeCapabilities:
        """What this node has. Without ``probe`` no browser is looked for: no test needs one."""
        if probe:
            try:
                return self.node.capabilities()
            except (NoBrowser, ConfigurationError) as error:
                self.trouble = str(error)
        return NodeCapabilities(
            node=self.node_id,
            host=socket.gethostname(),
            machine=machine.identity(),
            cores=os.cpu_count() or 1,
        )

    def find_runtime(self) -> None:
        """Ask this node's own hook for onnxruntime-web, when the controller asked its own: before any conftest.py of a
        subdirectory. What is wrong with the answer is told with the capabilities."""
        try:
            found = hooked.runtime_of_node(self.config, self.settings)
        except ConfigurationError as error:
            self._wrong_runtime = error
            return
        if found is not None:
            self._use_runtime(found)

    def _use_runtime(self, own: OwnRuntime | None) -> None:
        self.settings, self._runtime_here = dataclasses.replace(self.settings, own_runtime=own), True

    def _bring_runtime(self) -> None:
        """From the controller, where this machine may have none."""
        if self._wrong_runtime is not None:
            raise self._wrong_runtime
        if self._supplier is None or self._runtime_here:
            return
        own = self.settings.own_runtime
        directory = self._supplier.runtime(own)
        self._use_runtime(dataclasses.replace(own, directory=str(directory)) if own is not None else None)

    def close(self) -> None:
        """End the threads and close the browsers. May be called again."""
        self._aside.close()
        with self._lock:
            node, self._node, self._closed = self._node, None, True
        if node is not None:
            node.close()
        if self._teller is not None:
            self._teller.flush()  # no report may come to take the last rows along

    def ask_the_controller(self) -> None:
        """For models and onnxruntime-web: this process is on a machine that may have neither, nor a network."""
        from pytest_browserpool.models import sources
        from pytest_browserpool.models.shipping import Elsewhere, Supplier

        rootdir = Path(self.settings.rootdir)
        self._supplier = Supplier(self.send, rootdir)
        sources.ask(Elsewhere(self._supplier, rootdir))

    # -- collection ------------------------------------------------------------------------------------------

    def start_beating(self) -> None:
        """Tell the controller every few seconds that this process lives, from now until it ends; one on another machine
        answers, and this process ends when it does not."""
        elsewhere = self._supplier is not None
        self._pulse.begin(self.config.workerinput[INPUT]["channel"].gateway if elsewhere else None)  # type: ignore[attr-defined]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Send needs and capabilities: tryfirst, so that they arrive before xdist reports the collection."""
        self._items = {item.nodeid: item for item in session.items}
        distinct: dict[str, int] = {}
        of_item: dict[int, int] = {}
        for index, item in enumerate(session.items):
            needs = markers.needs_of(item)
            if needs is None:
                continue
            number = distinct.setdefault(repr(needs), len(self._expected))
            if number == len(self._expected):
                self._expected.append(needs)
            of_item[index] = number
        if not self.distributed:
            return
        plain = [needs.to_plain() for needs in self._expected]
        self.send({"kind": "needs", "needs": plain, "of_item": of_item})
        value = self.capabilities(probe=bool(of_item)).to_plain()
        self.send({"kind": "capabilities", "value": value, "python": _python(), "trouble": self.trouble})

    # -- directives ------------------------------------------------------------------------------------------

    def on_directive(self, message: Message) -> None:
        """One message of the controller, on execnet's receiver thread: nothing here may wait."""
        kind = message["kind"]
        self._pulse.heard()
        if kind in ("manifest", "refused", "piece"):
            assert self._supplier is not None
            self._supplier.deliver(message)
        elif kind == PEER:
            self.exchange.deliver(message)
        elif kind == "run":
            self._hints[message["index"]] = (message["browser"], message["backend"])
            self._interactor.torun.put(message["index"])
        elif kind in aside.KINDS:
            self._aside.submit(message)

    def on_end(self) -> None:
        """The link is closed, on execnet's receiver thread. Usually all is over by then; where the controller was killed,
        the browsers end now: execnet gives a running test five seconds, and the process ten more."""
        threading.Thread(target=self.close, name="browserpool-end", daemon=True).start()

    # -- running ---------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run one test at a time where our scheduler sends them; xdist's own schedulers need xdist's own
        loop."""
        if not self.distributed or not self.config.workerinput[INPUT]["own_loop"]:  # type: ignore[attr-defined]
            return None
        teller = self._teller = Teller(self._interactor.sendevent, self._direct)
        self._interactor.sendevent = teller.tell
        self._pulse.also(self._tell_all)
        self._looping = session
        return RunLoop(session, self._interactor, self._started).run()

    @functools.cached_property
    def _interactor(self) -> Any:
        """xdist's own plugin on this node, with the queue of what is to be run."""
        interactor = find_interactor(self.config)
        assert interactor is not None, (
            "this xdist has no WorkerInteractor; pytest-browserpool needs pytest-xdist 3.8"
        )
        return interactor

    def _tell_all(self) -> None:
        """Every tenth of a second: of a node that is lost no more is missing than of the time since."""
        node = self._node  # another thread may close it
        if node is not None:
            node.report.flush()
        if self._teller is not None:
            self._teller.flush()

    def _started(self, index: int, late: bool) -> None:
        self._hint = self._hints.pop(index, None)
        if late:
            self.send({"kind": "started", "index": index})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Where no scheduler chose, see whether this node can run the test at all, and say why not."""
        item.stash[USE_KEY] = {}
        if self._hint is not None:
            return
        needs = markers.needs_of(item)
        if needs is None:
            return
        from pytest_browserpool.placement.eligibility import why_not

        here = self.capabilities(probe=True)
        reason = why_not(here, needs, ())
        if reason:
            error = no_node([reason], [self.trouble] if self.trouble else [])
            skip = needs.on == "each" or self.settings.missing == "skip"
            if skip and not insisted(needs, self.settings.browsers, here.browsers):
                pytest.skip(in_a_line(error))
            raise error

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        error = call.excinfo.value if call.excinfo is not None else None
        if call.when == "setup" and isinstance(error, BrowserPoolError):
            # raised by our fixtures: value, place and remedy say more than our own frames
            report.longrepr = in_full(error)
        if isinstance(error, NoNode):
            report.when = (
                "call"  # as the controller reports it under xdist: failed, not an error of a fixture
            )
        if call.when == "call" or (call.when == "setup" and not report.passed):
            self._end(item, report)
        if used := item.stash.get(USE_KEY, None):
            report.browserpool = used  # type: ignore[attr-defined]
            if call.when != "teardown":
                item.stash[USE_KEY] = _without(used, TEARDOWN_LEAVES_OUT)
        report.keywords = self._keywords = _kept(self._keywords, report.keywords)
        return report

    def _end(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Ask the runtime what the test used, while the test's page still exists: a failure wants a
        screenshot."""
        if self._begun != item.nodeid or self._node is None:
            return
        self._begun = None
        try:
            use = self._node.end_test(failed=report.failed)
        except Exception as error:  # noqa: BLE001  the test's own outcome stands; what is missing is said
            report.sections.append(("browserpool", f"what the test used could not be collected: {error!r}"))
            return
        if use is not None:
            used = item.stash[USE_KEY] = use.to_plain()
            item.user_properties += test_properties(used, self.node_id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """``pytest.exit()`` ends the whole run; with a status of its own xdist would take this node for one that is done."""
        error = excinfo.value
        if (
            self._looping is not None
            and isinstance(error, pytest.exit.Exception)
            and error.returncode is not None
        ):
            self._looping.shouldstop = f"pytest.exit() on {self.node_id}: {error.msg}"
            self.config.workeroutput[EXIT] = int(error.returncode)  # type: ignore[attr-defined]

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fixtures that an interrupt left open first: they may use the browsers that are closed then."""
        try:
            session._setupstate.teardown_exact(None)
        finally:
            self.close()

    def pytest_unconfigure(self) -> None:
        self._pulse.end()
        self.close()


def _without(used: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """``used`` itself where it has nothing under ``names``: pytest keeps what is on its reports until the end."""
    if not any(used.get(name) for name in names):
        return used
    return {name: value for name, value in used.items() if name not in names}


def _kept(before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one of them that is there already, where they are equal: pytest makes three for each test, and keeps them."""
    return before if before == now else now


def _python() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])
