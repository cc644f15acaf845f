"""A page of a pooled browser that a test drives itself, for applications that are more than one model."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.browsers import choice
from pytest_browserpool.browsers.pool import Pool
from pytest_browserpool.errors import NoBrowser
from pytest_browserpool.node.facade import Bridge, Facade
from pytest_browserpool.node.use import RunningTest
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node

LEASE_TIMEOUT = 60.0
"""Seconds for one call on a leased page: twice Playwright's own default of 30 s, so that its clearer error comes first."""

CLOSE_SECONDS = 10.0
"""Seconds for screenshot, trace and closing together; what does not end is left to the browser's retirement."""


class Lease:
    """Opens in the node's loop; the test sees the page through a facade."""

    timeout = LEASE_TIMEOUT

    def __init__(self, pool: Pool, browser: str, traces: Path) -> None:
        self.browser = browser
        self.version = ""
        self.console: list[str] = []
        self.screenshot: str | None = None
        self.trace: Path | None = None
        self._pool = pool
        self._traces = traces
        self._context: Any = None
        self._page: Any = None
        self._instance: Any = None

    async def open(self) -> Any:
        """A new page in a context of its own, traced from the start: what led to a failure cannot be recorded after it."""
        self._instance, _ = await self._pool.browser(self.browser)
        self._instance.leases += 1
        self.version = self._instance.process.version
        try:
            self._context = await self._instance.process.new_context()
            with contextlib.suppress(
                Exception
            ):  # BiDi browsers have no tracing; console and screenshot remain
                await self._context.tracing.start(screenshots=True, snapshots=True)
            self._page = await self._context.new_page()
        except BaseException:
            self._instance.leases -= 1
            raise
        self._page.on("console", lambda m: self.console.append(f"{m.type}: {m.text}"))
        self._page.on("pageerror", lambda e: self.console.append(f"page error: {e}"))
        return self._page

    async def close(self, *, failed: bool, name: str) -> None:
        """Ends the page; for a failed test with screenshot and trace."""
        try:
            with contextlib.suppress(Exception):  # a dead page must not hide why the test failed
                async with asyncio.timeout(CLOSE_SECONDS):
                    if failed:
                        await self._keep_evidence(name)
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._context.close()
        finally:
            self._instance.leases -= 1

    async def _keep_evidence(self, name: str) -> None:
        with contextlib.suppress(Exception):
            self.screenshot = base64.b64encode(await self._page.screenshot()).decode()
        self._traces.mkdir(parents=True, exist_ok=True)
        path = self._traces / (re.sub(r"[^\w.-]+", "_", name)[-150:] + ".zip")
        await self._context.tracing.stop(path=path)
        self.trace = path
        self.console.append(f"info: Playwright's trace: {path}")


@contextlib.contextmanager
def leased(
    node: Node, browsers: Sequence[str] | None = None, backends: Sequence[str] | None = None
) -> Iterator[Facade]:
    """A fresh page of a pooled browser, with Playwright's methods made synchronous.

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
    lease = Lease(pool, found[0].browser, Path(node.settings.rootdir) / ".browserpool" / "traces")
    budget = node.settings.launch_timeout * 2
    page = node.call(lease.open, budget)
    test.lease_browser = (lease.browser, lease.version)
    bridge = Bridge(lambda function: node.call(function, lease.timeout), node.loop_thread)
    failed = True
    try:
        yield Facade(bridge, page)
        failed = False
    finally:
        bridge.close()
        node.call(lambda: lease.close(failed=failed, name=test.nodeid), budget)
        test.lease_console += lease.console
        test.lease_screenshot = lease.screenshot or test.lease_screenshot
