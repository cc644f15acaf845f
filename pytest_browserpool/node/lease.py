"""A page of a pooled browser that a test drives itself, for applications that are more than one model."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from pathlib import Path
from typing import Any

from pytest_browserpool.browsers.pool import Pool

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
