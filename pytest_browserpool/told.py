"""What xdist's worker tells of one test, and what we tell of it, in one message instead of seven.

Each message costs both ends a tenth of a millisecond, which a suite of short tests has in the thousands. What a test is told
to have done is passed on when it is complete (``outcomes.ReportGate``), so nobody misses what waits here until then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from pytest_browserpool.link import SEVERAL, TOLD, Message

Event = tuple[str, dict[str, Any]]
"""As xdist's worker sends it."""

HELD = ("logstart", "logfinish", "warning_recorded")
"""Events that wait for the next one."""

CLOSES = "runtest_protocol_complete"

BRIEF_SECONDS = 0.02
"""A set-up that took longer did something worth knowing while the test's call runs: a launch or a load takes 50 ms and more,
that of a warm model one or two. What a shorter one has to tell waits for the end of the call, or
``heartbeat.TELL_SECONDS``."""


class Teller:
    """Takes the place of the interactor's ``sendevent``. ``direct`` is xdist's own; ``send`` goes over our channel, which the
    same receiver thread reads in the same order. Thread-safe."""

    def __init__(self, direct: Callable[..., None], send: Callable[[Message], None]) -> None:
        self._direct, self._send = direct, send
        self._lock = threading.RLock()
        self._held: list[Event | Message] = []

    def tell(self, name: str, **fields: Any) -> None:
        """Sends an event, or keeps it for the next that is sent."""
        with self._lock:
            if name in HELD or _went_well(name, fields):
                self._held.append((name, fields))
            elif name in (CLOSES, "testreport"):
                self._held.append((name, fields))
                self.flush()
            else:
                self.flush()
                self._direct(name, **fields)

    def send(self, message: Message) -> None:
        """Sends a message of ours after what waits; several at once, as the end of a call has them, wait for its report."""
        with self._lock:
            if message["kind"] == SEVERAL:
                self._held.append(message)
            else:
                self.flush()
                self._send(message)

    def flush(self) -> None:
        """Sends what waits; ten times a second too, so that a node that is lost has said how far its test came."""
        with self._lock:
            held, self._held = self._held, []
            if held:
                self._send({"kind": TOLD, "parts": held})


def _went_well(name: str, fields: Mapping[str, Any]) -> bool:
    """Whether it is the report of a phase after which the test goes on. That of a set-up goes at once unless it was brief:
    most nodes that a test takes with it go in its call."""
    if name != "testreport":
        return False
    report = fields.get("data", {})
    if report.get("when") == "setup" and not report.get("duration", 1.0) < BRIEF_SECONDS:
        return False
    return bool(report.get("outcome") == "passed")
