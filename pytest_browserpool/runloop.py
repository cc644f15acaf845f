"""The node's test loop without xdist's lookahead: a node holds only the test that it runs.

xdist's own loop takes the next index before it runs the current one, because fixtures of wider scope are torn down at the
end of the last test that needs them. Here a test is torn down alone, and what the next test does not share is torn down when
that test is known. An error in there is reported as the earlier test's teardown, as pytest does; the controller holds the
earlier, passed teardown report back until then (``outcomes.ReportGate``).
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _pytest.logging import caplog_handler_key, caplog_records_key
from _pytest.runner import CallInfo

LATE_SECONDS = 0.05
"""Between a test's arrival on its node and its start: what the controller takes for the same until it hears of it. Only the
fixtures that the test before leaves take longer."""


def find_interactor(config: pytest.Config) -> Any | None:
    """xdist's worker-side plugin; it is run as a script on the node, so it cannot be imported."""
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor" and hasattr(plugin, "torun"):
            return plugin
    return None


class RunLoop:
    """Runs what the controller sends, one test at a time, until it says shut down."""

    def __init__(
        self, session: pytest.Session, interactor: Any, started: Callable[[int, bool], None]
    ) -> None:
        """``started``: hears the index of a test that starts now, and whether it is late."""
        self.session, self.interactor, self.started = session, interactor, started
        self._leaving: pytest.Item | None = None
        """Whose wider fixtures are being torn down."""
        self.shutdown = type(interactor).run_one_test.__globals__["Marker"].SHUTDOWN

    def run(self) -> bool:
        interactor, session = self.interactor, self.session
        session.config.pluginmanager.register(self, "browserpool-runloop")
        interactor.channel.setcallback(interactor.handle_command, endmarker=self.shutdown)
        last: pytest.Item | None = None
        while (index := interactor.torun.get()) is not self.shutdown:
            item, came = session.items[index], time.perf_counter()
            self.tear_down_for(last, item)
            if session.shouldfail or session.shouldstop:
                break
            last = item
            self.started(index, time.perf_counter() - came > LATE_SECONDS)
            self.run_one(index, item)
            if session.shouldfail or session.shouldstop:
                break
        self.tear_down_for(last, None)
        return True

    def run_one(self, index: int, item: pytest.Item) -> None:
        self.interactor.item_index = index
        start = time.perf_counter()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=_sibling(item))
        duration = time.perf_counter() - start
        self.interactor.sendevent("runtest_protocol_complete", item_index=index, duration=duration)

    def tear_down_for(self, last: pytest.Item | None, item: pytest.Item | None) -> None:
        """Tear down the fixtures of ``last`` that ``item`` does not share; report an error as ``last``'s.

        Within pytest's protocol for ``last``, so that what plugins put around a test holds here too: time-outs, warnings.
        """
        if last is None or not (left := self._left(item)):
            return
        if max(left) == 1:
            self._finish(last, item)
            return
        self._leaving = last
        try:
            last.config.hook.pytest_runtest_protocol(item=last, nextitem=item)
        finally:
            self._leaving = None

    def _left(self, item: pytest.Item | None) -> list[int]:
        """For each node that ``item`` does not lie in, what is to end with it: itself, and its fixtures."""
        kept = set(item.listchain()) if item is not None else set()
        stack = self.session._setupstate.stack
        return [len(finalizers) for node, (finalizers, _) in stack.items() if node not in kept]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """In place of pytest's own: the test itself has been run."""
        if self._leaving is not item:
            return None
        self._finish(item, nextitem)
        return True

    def _finish(self, last: pytest.Item, item: pytest.Item | None) -> None:
        state = self.session._setupstate

        def finish() -> None:
            with _captured(last):
                state.teardown_exact(item)

        reraise: tuple[type[BaseException], ...] = (pytest.exit.Exception,)
        if not last.config.getoption("usepdb", False):
            reraise += (KeyboardInterrupt,)
        call = CallInfo.from_call(finish, when="teardown", reraise=reraise)
        if call.excinfo is None:
            return
        report = last.ihook.pytest_runtest_makereport(item=last, call=call)
        last.ihook.pytest_runtest_logreport(report=report)


def _sibling(item: pytest.Item) -> pytest.Item:
    """What stands for the unknown next test, so that only the item itself is torn down: another in the same place, which
    hooks can ask what they ask of any."""
    return copy.copy(item)


@contextlib.contextmanager
def _captured(item: pytest.Item) -> Iterator[None]:
    """What is printed and logged goes to the item's report, as in any teardown."""
    capture = item.config.pluginmanager.getplugin("capturemanager")
    logs = item.config.pluginmanager.getplugin("logging-plugin")
    with contextlib.ExitStack() as stack:
        if logs is not None:
            item.stash[caplog_records_key] = {}  # pytest's own teardown of the item has removed it
            stack.enter_context(logs._runtest_for(item, "teardown"))
        if capture is not None:
            stack.enter_context(capture.item_capture("teardown", item))
        yield
    if logs is not None:
        del item.stash[caplog_records_key]
        del item.stash[caplog_handler_key]
