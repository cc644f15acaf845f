"""The live view where pytest runs the tests itself, without ``-n``: how far it is, and what its browsers do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_browserpool.report.live import LiveView
from pytest_browserpool.report.progress import EndForecast, NodeNow, Progress

if TYPE_CHECKING:
    from pytest_browserpool.ledger import Ledger

PLUGIN = "browserpool-alone"

NODE = "main"
"""What the only node is called on the record."""

TICK = 1.0
"""Seconds between drawings, and at least between looks whether a log wants a line: short tests end a thousand times in it."""

ENOUGH = 3
"""Tests after which their pace says something about the rest."""


class AloneView:
    """Plugin of pytest without ``-n``. ``where`` says in which browser the running test has its model, from any thread."""

    def __init__(self, config: pytest.Config, ledger: Ledger, where: Callable[[], str]) -> None:
        self._live = LiveView(config, aside=True)
        self._ledger, self._where = ledger, where
        self._doing = ""
        self._tests = self._done = 0
        self._test, self._test_began = "", 0.0
        self._began = self._looked = 0.0
        self._forecast = EndForecast()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="browserpool-live", daemon=True)

    def hears(self, message: Mapping[str, Any]) -> None:
        """The node says what it begins to do beside running a test; nothing: that is over. From any thread."""
        self._doing = " ".join(str(message[key]) for key in ("what", "of") if message.get(key))

    @pytest.hookimpl
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tests, self._began = len(session.items), time.monotonic()
        if self._live.interactive and self._tests:
            self._thread.start()

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test, self._test_began = nodeid, time.monotonic()

    @pytest.hookimpl
    def pytest_runtest_logfinish(self) -> None:
        self._test = ""
        self._done += 1
        now = time.monotonic()
        if not self._live.interactive and now - self._looked >= TICK:
            self._looked = now  # a log: between tests, when nothing of pytest's is half said
            self._live.tick(self.progress(now))

    @pytest.hookimpl
    def pytest_enter_pdb(self) -> None:
        self._live.pause()

    @pytest.hookimpl
    def pytest_leave_pdb(self) -> None:
        self._live.resume()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self.end()

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        self.end()

    def end(self) -> None:
        """Take the view away. May be called again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._live.end()

    def _draw(self) -> None:
        while not self._stop.wait(TICK):
            self._live.tick(self.progress(time.monotonic()))

    def progress(self, now: float) -> Progress:
        """The run as it is ``now``, by the monotonic clock."""
        left = None
        if self._done >= ENOUGH:
            left = (now - self._began) / self._done * (self._tests - self._done)
            self._forecast.note(now, now + left)
        return Progress(
            done=self._done,
            tests=self._tests,
            nodes=(self._node(now),),
            left_s=left,
            error_s=self._forecast.error,
        )

    def _node(self, now: float) -> NodeNow:
        test = self._test
        state = self._ledger.states.get(NODE)
        running = [row.name for row in list(state.browsers.values()) if row.status != "gone"] if state else []
        return NodeNow(
            node=NODE,
            test=test,
            where=self._where() if test else "",
            seconds=now - self._test_began if test else 0.0,
            doing=self._doing,
            browsers=tuple(sorted(running)),
        )
