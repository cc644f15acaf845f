"""The run's nodes elsewhere: connected at the beginning, dialled anew when lost, given up when that fails in time.

It stands in two places of xdist for the length of a run: ``NodeManager.setup_node`` (a gateway that is open already,
arguments as they are there) and ``DSession._clone_node`` (no waiting for a dead host while others could work).
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_browserpool import __version__
from pytest_browserpool.config import did_you_mean
from pytest_browserpool.remote import XDIST_CHDIR, Connection, Paths, is_elsewhere, place_of

if TYPE_CHECKING:
    from execnet import XSpec
    from xdist.workermanage import NodeManager, WorkerController

SPEC_KEYS = (
    *("popen", "ssh", "socket", "vagrant_ssh", "via", "installvia"),
    *("chdir", "python", "browsers", "id", "nice", "env", "execmodel", "ssh_config", "dont_write_bytecode"),
    "_spec",
)
"""What ``--tx`` may hold. execnet takes any key; one that is merely like these is a slip that it would ignore."""


class Fleet:
    """See the module. ``say`` and ``warn`` print a line; ``given_up(node id)`` hears of each node that will not come."""

    def __init__(
        self,
        dsession: Any,
        paths: Paths,
        *,
        timeout: float,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        given_up: Callable[[str], None],
        proven: Collection[Any],
    ) -> None:
        """``proven``: nodes that told what they have, and grows: their set-up is right, so that a lost one is worth
        dialling again."""
        self._dsession, self._paths, self._timeout = dsession, paths, timeout
        self._say, self._warn, self._given_up = say, warn, given_up
        self._ready: dict[str, Connection] = {}
        self._pending: dict[str, Connection] = {}
        self._connected: queue.SimpleQueue[str] = queue.SimpleQueue()
        """Ids of pending connections that ended, good or bad."""
        self._proven = proven
        self._rsyncs = False

    # -- the beginning ---------------------------------------------------------------------------------------

    def begin(self, specs: list[XSpec]) -> None:
        """Connect to all of ``specs`` that are elsewhere, at once; take those that fail out of it.

        Raises:
            pytest.UsageError: a spec says not where the suite is, or none could be reached.
        """
        manager: NodeManager = self._dsession.nodemanager
        manager.roots = self._rsync_roots(manager)
        self._rsyncs = bool(manager.roots)
        for spec in specs:
            self._check(spec)
            if spec.popen and spec.python and not (spec.chdir or spec.via):
                # another interpreter may lack what it needs, as another machine may; xdist would start it for ever
                spec.chdir = str(self._paths.rootdir)
        remote = [spec for spec in specs if is_elsewhere(spec)]
        for spec in remote:
            if spec.chdir:
                spec.chdir = self._paths.chdir(spec.chdir)
        self._stand_in(manager)
        started = [self._connection(spec) for spec in remote]
        for connection in started:
            connection.start()
        deadline = time.monotonic() + self._timeout
        troubles = {}
        for connection in started:
            if connection.wait(deadline):
                self._ready[connection.id] = connection
            else:
                specs.remove(connection.spec)
                troubles[connection.id] = f"{place_of(connection.spec)}: {connection.trouble}"
        for trouble in dict.fromkeys(troubles.values()):
            self._warn(f"node left out: {trouble}")
        if not specs:
            raise pytest.UsageError(
                "no node of --tx could be reached: " + "; ".join(dict.fromkeys(troubles.values()))
            )

    def _check(self, spec: XSpec) -> None:
        written = str(spec).removeprefix("execmodel=main_thread_only//")  # which xdist puts there
        for key in vars(spec):
            if key not in SPEC_KEYS and (hint := did_you_mean(key, SPEC_KEYS)):
                raise pytest.UsageError(f"--tx {written}: unknown key {key!r}{hint}")
        if not (spec.popen or spec.ssh or spec.socket or spec.vagrant_ssh):
            raise pytest.UsageError(
                f"--tx {written}: what kind of node is it? Give popen, ssh=HOST or socket=HOST:PORT"
            )
        if not self._rsyncs and not spec.popen and spec.chdir in (None, XDIST_CHDIR):
            raise pytest.UsageError(
                f"--tx {written}: where is the suite there? Add //chdir=PATH, the copy of {self._paths.rootdir}"
            )

    def _connection(self, spec: XSpec) -> Connection:
        group = self._dsession.nodemanager.group
        group.allocate_id(spec)
        return Connection(group, spec, __version__, timeout=self._timeout, make_directory=self._rsyncs)

    @staticmethod
    def _rsync_roots(manager: NodeManager) -> list[Any]:
        """What the user wants copied (``--rsyncdir``), without the copy of pytest that xdist adds: a node needs this
        package installed, so it has a pytest, and a second one in the suite's directory would hide that."""
        config = manager.config
        wanted = [*config.option.rsyncdir, *config.getini("rsyncdirs")]
        return [root for root in manager.roots if root.name not in ("pytest", "_pytest")] if wanted else []

    # -- standing in for xdist -------------------------------------------------------------------------------

    def _stand_in(self, manager: NodeManager) -> None:
        setup, clone = manager.setup_node, self._dsession._clone_node

        def setup_node(spec: XSpec, putevent: Callable[[Any], None]) -> WorkerController:
            if not is_elsewhere(spec):
                return setup(spec, putevent)
            return self._set_up(setup, spec, putevent)

        def clone_node(node: WorkerController) -> WorkerController | None:
            if not is_elsewhere(node.gateway.spec):
                return clone(node)
            self._replace(node)
            return None

        manager.setup_node = setup_node
        self._dsession._clone_node = clone_node
        self._dsession.worker_browserpool_connected = self._take_in

    def _set_up(self, setup: Callable[..., Any], spec: XSpec, putevent: Callable[[Any], None]) -> Any:
        """xdist's own set-up of a node with the open gateway. If the host is lost in it, the node is lost."""
        gateway = self._ready.pop(str(spec.id)).gateway
        try:
            with self._as_there(setup, gateway):
                return setup(spec, putevent)
        except (OSError, EOFError) as error:
            node = getattr(gateway, "node", None)
            if node is None:
                raise
            node._down = True
            putevent(("errordown", {"node": node, "error": error}))
            return node

    @contextlib.contextmanager
    def _as_there(self, setup: Callable[..., Any], gateway: Any) -> Iterator[None]:
        """While xdist sets a node up: its ``makegateway`` gives the open one, its arguments are those of there."""
        group, names = self._dsession.nodemanager.group, setup.__globals__
        own = names["make_reltoroot"]

        def arguments(roots: Sequence[Any], given: list[str]) -> list[str]:
            return list(own(roots, given)) if roots else self._paths.arguments(given)

        group.makegateway = lambda spec: gateway
        names["make_reltoroot"] = arguments
        try:
            yield
        finally:
            names["make_reltoroot"] = own
            del group.makegateway

    # -- a node is lost --------------------------------------------------------------------------------------

    def _replace(self, node: WorkerController) -> None:
        spec = node.gateway.spec
        lost = str(node.gateway.id)
        if node not in self._proven:
            self.give_up(lost, f"{place_of(spec)}: {lost} ended before it had collected its tests")
        else:
            spec.id = None
            connection = self._connection(spec)
            self._pending[connection.id] = connection
            connection.start(lambda: self._ended(connection.id), again=True)
        if not self._dsession._active_nodes - {node}:
            self._wait_for_any()

    def _ended(self, name: str) -> None:
        self._connected.put(name)
        self._dsession.queue.put(("browserpool_connected", {}))

    def _take_in(self) -> None:
        """On the main thread: what became of pending connections."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._finish(self._connected.get_nowait())

    def _finish(self, name: str) -> None:
        connection = self._pending.pop(name, None)
        if connection is None:
            return
        dsession = self._dsession
        if not connection.wait(time.monotonic()):
            self.give_up(name, f"{place_of(connection.spec)}: {connection.trouble}")
        elif dsession.shuttingdown:
            connection.give_up("the run is over")
        else:
            self._ready[name] = connection
            node = dsession.nodemanager.setup_node(connection.spec, dsession.queue.put)
            dsession._active_nodes.add(node)
            self._say(f"node back: {place_of(connection.spec)} as {name}")

    def _wait_for_any(self) -> None:
        """No other node is left: wait here until one is back, or end the run."""
        deadline = time.monotonic() + self._timeout
        others = len(self._dsession._active_nodes)
        while self._pending and len(self._dsession._active_nodes) <= others:
            try:
                name = self._connected.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                name = next(iter(self._pending))
                self._pending[name].give_up()
            self._finish(name)
        if len(self._dsession._active_nodes) <= others:
            self._dsession._summary_report = "no node is left, and none could be reached again"
            self._dsession.triggershutdown()

    def tick(self) -> None:
        """On the main thread, now and then: end pending connections that are too old."""
        for connection in list(self._pending.values()):
            if time.monotonic() > connection.deadline:
                connection.give_up()
                self._finish(connection.id)

    def give_up(self, name: str, why: str) -> None:
        """A node that was expected will not come."""
        self._warn(f"node given up: {why}")
        self._given_up(name)

    def close(self) -> None:
        """End what is still being dialled."""
        for connection in list(self._pending.values()):
            connection.give_up("the run is over")
        self._pending.clear()
