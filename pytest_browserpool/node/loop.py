"""The event loop of a node, on a thread of its own, and how other threads call into it: each call with a deadline."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from pytest_browserpool.errors import BrowserPoolError, DeadlineExceeded, hide_from_traceback

__tracebackhide__ = hide_from_traceback

GRACE = 20.0
"""Seconds beyond an operation's own deadlines before the caller gives up on the loop itself: they add up (a hung page
is closed, its browser asked, perhaps killed), and a hang must still end."""


class NodeLoop:
    """The loop begins with ``_begin_loop`` and ends with the stack that was given there."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.loop_thread = 0
        """Its identity, as ``threading.get_ident`` has it; 0 until there is one."""
        self._portal: BlockingPortal | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _begin_loop(self, stack: ExitStack) -> BlockingPortal:
        self._portal = stack.enter_context(start_blocking_portal(name=f"browserpool-{self.node_id}"))
        self._loop, self.loop_thread = self._portal.call(_whereabouts)
        return self._portal

    def call(self, function: Callable[[], Awaitable[Any]], timeout: float) -> Any:
        """Runs ``function`` in the loop; at most ``timeout`` seconds and ``GRACE``.

        Raises:
            DeadlineExceeded: the loop did not come back: it is given up, and so is what it was at.
        """
        return self.finish(self.start(function), timeout)

    def start(self, function: Callable[[], Awaitable[Any]]) -> concurrent.futures.Future[Any]:
        """Begins ``function`` in the loop; ``finish`` waits for it."""
        assert self._loop is not None
        # asyncio's own way in: half the time of the portal's, which every warm call would pay
        work = _awaited(function)
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has ended
            work.close()
            raise

    def soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """``function(*arguments)`` in the next turn of the loop; it must not raise."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *arguments)

    def finish(self, future: concurrent.futures.Future[Any], timeout: float) -> Any:
        """What ``start`` began; ends like ``call``."""
        try:
            return future.result(timeout + GRACE)
        except (concurrent.futures.TimeoutError, TimeoutError):
            if future.done():
                raise
            future.cancel()
            raise DeadlineExceeded(
                f"the browser pool did not come back within {timeout + GRACE:g} s",
                where=f"node {self.node_id}",
                remedy="report this with the console output: an inner deadline should have come first",
            ) from None
        except BrowserPoolError as error:
            # the loop's frames say nothing to a test's author
            raise error.with_traceback(None) from error.__cause__
        except BaseException:  # Ctrl-C while waiting: the operation must not go on alone
            future.cancel()
            raise


async def _awaited(function: Callable[[], Awaitable[Any]]) -> Any:
    return await function()


async def _whereabouts() -> tuple[asyncio.AbstractEventLoop, int]:
    return asyncio.get_running_loop(), threading.get_ident()
