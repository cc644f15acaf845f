"""Signs of life between the controller and its nodes: who gives them, who listens, and how long silence may last."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_browserpool import link
from pytest_browserpool.link import Message

if TYPE_CHECKING:
    from execnet import Gateway

STARTUP = 60.0
"""Seconds beyond the heartbeat's time-out for a node's first sign of life: Python and all plugins start in one to two
seconds, thirty times that on a machine that is overrun."""

TELL_SECONDS = 0.1
"""Between two tellings of what waits on a node (``told``): no more than that is missing of one that is lost, and ten wakes a
second cost it a thousandth of a core."""

STILL_SECONDS = 3.0
"""Between two looks at who is silent, a second apart as a rule: after more than that this process stood still (Ctrl-Z, a
paused container or machine), and nobody could be heard."""

READ_SECONDS = 0.5
"""For the answers that wait to be read after this process stood still."""

CLOSE_SECONDS = 10.0
"""For closing the browsers of a node that lost its controller; what is left then dies with the process."""


class Watch:
    """The controller's: when each of xdist's nodes last said anything, by the monotonic clock. Written by receiver threads.

    ``timeout``: seconds of silence after which a node is taken for lost.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._heard: dict[Any, float] = {}
        self._looked: float | None = None

    def expect(self, node: Any) -> None:
        """``node`` is about to start, and has more time for its first word."""
        self._heard[node] = time.monotonic() + STARTUP

    def heard(self, node: Any) -> None:
        self._heard[node] = time.monotonic()

    def forget(self, node: Any) -> None:
        self._heard.pop(node, None)

    def silent(self) -> list[Any]:
        """The nodes that have been silent for too long; they are forgotten."""
        now = time.monotonic()
        since = now - self._looked if self._looked is not None else 0.0
        self._looked = now
        if since > STILL_SECONDS:
            for node, heard in list(self._heard.items()):
                if node in self._heard:  # receivers write too: what they heard since is as good
                    self._heard[node] = heard + since
            return []
        found = [node for node, heard in list(self._heard.items()) if now - heard > self._timeout]
        for node in found:
            self.forget(node)
        return found


class Pulse:
    """A node's: it beats, and on another machine than the controller's it ends when that answers no more.

    ``send`` takes messages for the controller; ``timeout``: seconds of silence after which that takes this node for lost;
    ``close`` ends what runs here.
    """

    def __init__(self, send: Callable[[Message], None], timeout: float, close: Callable[[], None]) -> None:
        self._send, self._timeout, self._close = send, timeout, close
        self._stop = threading.Event()
        self._also: Callable[[], None] = lambda: None
        self._heard = time.monotonic()
        """When the controller last said anything; on another machine it answers each beat."""

    def begin(self, controller: Gateway | None) -> None:
        """Beat every few seconds until ``end``. ``controller``: the link to one on another machine."""
        threading.Thread(target=self._beat, name="browserpool-heartbeat", daemon=True).start()
        if controller is not None:
            threading.Thread(
                target=self._listen, args=(controller,), name="browserpool-watch", daemon=True
            ).start()

    def also(self, tell: Callable[[], None]) -> None:
        """To be called every ``TELL_SECONDS``, and before each beat, on its thread."""
        self._also = tell

    def heard(self) -> None:
        """The controller said something."""
        self._heard = time.monotonic()

    def end(self) -> None:
        self._stop.set()

    def _beat(self) -> None:
        import psutil

        from pytest_browserpool.browsers import gpu

        process = psutil.Process()
        psutil.cpu_percent(None)  # the first reading has nothing to compare with
        beaten, due = False, time.monotonic()
        while True:
            self._also()
            if time.monotonic() >= due:
                measured = {"memory_bytes": process.memory_info().rss, **gpu.reading()}
                if beaten:
                    measured["cpu_percent"] = psutil.cpu_percent(None)
                self._send({"kind": "beat", "at": time.time(), **measured})
                beaten, due = True, time.monotonic() + link.HEARTBEAT
            if self._stop.wait(TELL_SECONDS):
                return

    def _listen(self, controller: Gateway) -> None:
        """On a thread of its own: a beat into a link that is cut may block for ever."""
        while not self._stop.wait(max(0.1, self._heard + self._patience - time.monotonic())):
            # what came while this process stood still is read first
            if self._silent and not self._stop.wait(READ_SECONDS) and self._silent:
                self._end_alone(controller)
                return

    @property
    def _silent(self) -> bool:
        return time.monotonic() >= self._heard + self._patience

    @property
    def _patience(self) -> float:
        """Seconds without a word from a controller on another machine: three quarters of what it waits for us, so that
        what runs here has ended, and its concurrency key is free, when it runs again elsewhere."""
        return 0.75 * self._timeout

    def _end_alone(self, controller: Gateway) -> None:
        """The controller, on another machine, is out of reach: it has given this node up, and nobody else would
        end it, for a cut link looks like silence from both ends. Local nodes see their pipe close."""
        if getattr(controller._io, "sock", None) is not None:
            link.cut(
                controller
            )  # execnet then ends what runs; the socket server may live on for the next run
            return
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(min(CLOSE_SECONDS, self._timeout / 8))
        os._exit(1)
