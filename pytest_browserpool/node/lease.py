"""A page of a pooled browser that a test drives itself, for applications that are more than one model."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.browsers import choice
from pytest_browserpool.browsers.instance import PAGE_OPEN_SECONDS
from pytest_browserpool.browsers.launch import is_of_the_browser
from pytest_browserpool.browsers.pool import Pool
from pytest_browserpool.errors import BrowserCrashed, NoBrowser, PageHung, hide_from_traceback
from pytest_browserpool.node.facade import Bridge, Facade
from pytest_browserpool.node.use import RunningTest
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node

__tracebackhide__ = hide_from_traceback

MARGIN_SECONDS = 1.0
"""Playwright's own time-outs may be as long as the marker's and end an operation first: they say what was waited for."""

PLAYWRIGHT_SECONDS = 30.0
"""Playwright's own default for one operation."""

CLOSE_SECONDS = 10.0
"""Seconds for the trace and for closing, each; a browser that takes longer is ended."""

SCREENSHOT_SECONDS = 5.0
"""One takes 0.3 s in Firefox, less in Chromium; a page whose main thread spins gives none, and the trace is to be kept."""

HUNG_SCREENSHOT_SECONDS = 2.0
"""The same of a page that was waited for already: either it only waits, and takes a picture at once, or none will come."""


class Lease:
    """Opens in the node's loop; the test sees the page through a facade."""

    def __init__(self, pool: Pool, browser: str, traces: Path, test: RunningTest, timeout: float) -> None:
        self.browser = browser
        self.version = ""
        self.timeout = timeout
        """Seconds for one operation."""
        self.console: list[str] = []
        self.hung: PageHung | None = None
        """The operation that did not end: the page is closed, and why others fail."""
        self._pool = pool
        self._traces = traces
        self._test = test
        self._context: Any = None
        self._page: Any = None
        self._instance: Any = None
        self._traced = False
        self._ending = asyncio.Lock()
        self._ended = False

    @property
    def budget(self) -> float:
        """Seconds that one operation may take with all that follows when it hangs; inner deadlines bound it."""
        return self.timeout + MARGIN_SECONDS + HUNG_SCREENSHOT_SECONDS + 2 * CLOSE_SECONDS

    async def open(self) -> Any:
        """A new page in a context of its own, traced from the start: what led to a failure cannot be recorded after it.

        Raises:
            Fault: the browser opens no page; it is lost then.
        """
        self._instance, _ = await self._pool.browser(self.browser)
        self._instance.leases += 1
        self.version = self._instance.process.version
        try:
            async with asyncio.timeout(PAGE_OPEN_SECONDS):
                await self._open()
        except BaseException as error:
            self._instance.leases -= 1
            if isinstance(error, Exception) and is_of_the_browser(error):
                said = str(error).strip().splitlines() or [f"no answer within {PAGE_OPEN_SECONDS:g} s"]
                self._instance.lose(BrowserCrashed(f"{self.browser} opens no page: {said[0]}"))
                raise self._instance.lost from error
            raise
        self._page.on("console", lambda m: self.console.append(f"{m.type}: {m.text}"))
        self._page.on("pageerror", lambda e: self.console.append(f"page error: {e}"))
        return self._page

    async def _open(self) -> None:
        self._context = await self._instance.process.new_context()
        if (
            self.timeout < PLAYWRIGHT_SECONDS
        ):  # its error is the better one where it knows what was waited for
            self._context.set_default_timeout(self.timeout * 1000)
        with contextlib.suppress(Exception):  # BiDi browsers have no tracing; console and screenshot remain
            await self._context.tracing.start(screenshots=True, snapshots=True)
            self._traced = True
        self._page = await self._context.new_page()

    async def operate(self, what: str, function: Callable[[], Awaitable[Any]]) -> Any:
        """What ``function`` brings. A page on which it does not end in time is closed before the error goes on, so that
        one that spins takes no CPU from what comes next.

        Raises:
            PageHung: ``what`` took longer than ``timeout``, or something before it did.
        """
        bound = asyncio.timeout(self.timeout + MARGIN_SECONDS)
        try:
            async with bound:
                return await function()
        except Exception:
            if self.hung is not None:  # its page is closed
                raise self._gone(what) from None
            if not bound.expired():
                raise
        self.hung = PageHung(
            f"{what} on a leased page did not end within {self.timeout:g} s",
            where=f"{self.browser} {self.version}, {self._page.url}",
            remedy="raise timeout= in the test's model marker if it takes that long (60 s unless given): it bounds each "
            "operation on a leased page, whatever timeout Playwright was given",
        )
        await self.end(failed=True)
        raise self.hung

    def _gone(self, what: str) -> PageHung:
        assert self.hung is not None
        return PageHung(
            f"{what}: the leased page is closed since {self.hung.what}",
            where=self.hung.where,
            remedy=self.hung.remedy,
        )

    async def end(self, *, failed: bool) -> None:
        """Ends the page, once; for a failed test with screenshot and trace. A browser that cannot is ended too."""
        async with self._ending:
            if self._ended:
                return
            self._ended = True
            try:
                if failed:
                    await self._keep_evidence()
                closed = False
                with contextlib.suppress(Exception):  # a dead page must not hide why the test failed
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await self._forget_trace()
                        await self._context.close()
                    closed = True
                if not closed or (self.hung is not None and not await self._sound()):
                    await self._retire()
            finally:
                self._instance.leases -= 1
                self._test.lease_console += self.console

    async def _keep_evidence(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(HUNG_SCREENSHOT_SECONDS if self.hung else SCREENSHOT_SECONDS):
                self._test.lease_screenshot = base64.b64encode(await self._page.screenshot()).decode()
        with contextlib.suppress(Exception):
            self._traces.mkdir(parents=True, exist_ok=True)
            path = self._traces / (re.sub(r"[^\w.-]+", "_", self._test.nodeid)[-150:] + ".zip")
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._context.tracing.stop(path=path)
            self._traced = False
            self.console.append(f"info: Playwright's trace: {path}")

    async def _forget_trace(self) -> None:
        """A trace that only ends with its page goes on without it: Playwright's driver would keep the stack of each later
        call of any page for each of them, until the run's end."""
        if self._traced:
            with contextlib.suppress(Exception):  # its browser is gone
                await self._context.tracing.stop()

    async def _sound(self) -> bool:
        """Whether the browser still opens pages and draws them: one that is stopped, or whose GPU process is, does not."""
        try:
            async with asyncio.timeout(self._pool.settings.ping_timeout):
                context = await self._instance.process.new_context()
                await (await context.new_page()).screenshot()
                await context.close()
        except Exception as error:
            if is_of_the_browser(error):
                return False
            raise
        return True

    async def _retire(self) -> None:
        instance = self._instance
        if instance not in self._pool.instances:  # gone already, and being closed
            return
        instance.lose(self.hung or PageHung(f"a leased page did not close within {CLOSE_SECONDS:g} s"))
        await asyncio.shield(self._pool.running.retire(instance, f"hung: {instance.lost.what}"))


@contextlib.contextmanager
def leased(
    node: Node,
    browsers: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    timeout: float = ModelNeeds.timeout,
) -> Iterator[Facade]:
    """A fresh page of a pooled browser, with Playwright's methods made synchronous; ``timeout``: seconds for each.

    Raises:
        NoBrowser: none here qualifies, with the reason for each.
    """
    needs = ModelNeeds(browsers=tuple(browsers or ()), backends=tuple(backends or ()))
    test = node.test or RunningTest("")
    pool, known = node.pool, node.capabilities().browsers
    running = {i.name for i in pool.instances if i.usable}
    found = choice.candidates(needs, known, running=running)
    if not found:
        raise NoBrowser(
            "no browser here qualifies:\n    " + "\n    ".join(choice.reasons(needs, known)),
            remedy="change browsers= or backends=, or see `browserpool doctor`",
        )
    traces = Path(node.settings.rootdir) / ".browserpool" / "traces"
    lease = Lease(pool, found[0].browser, traces, test, timeout)
    budget = node.settings.launch_timeout * 2
    page = node.call(lease.open, budget)
    test.lease_browser = (lease.browser, lease.version)

    def call(what: str, function: Callable[[], Awaitable[Any]]) -> Any:
        return node.call(lambda: lease.operate(what, function), lease.budget)

    bridge = Bridge(call, node.loop_thread)
    failed = True
    try:
        yield Facade(bridge, page)
        failed = False
    finally:
        bridge.close()
        node.call(lambda: lease.end(failed=failed), budget)
