"""Model pages as the node holds them: one under Playwright in Firefox, a target of its own in Chromium."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pytest_browserpool.errors import Fault, LaunchFailed, PageCrashed

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, CDPSession, Page

OnLost = Callable[[Fault], None]

CLOSE_SECONDS = 5.0
"""A page closes in 20 ms, a spinning one in 0.8 s; a browser with a stopped renderer never does and is killed.

What closing raises is suppressed whole: Playwright raises a bare ``Exception`` once its driver is dead."""


class ModelPage(Protocol):
    """A page that the node talks to over its own WebSocket."""

    watched: bool
    """Whether the browser reads along what the page fetches: large files are better sent over the WebSocket then."""

    def explained(self, fault: Fault) -> Fault:
        """What really happened when the connection closed, as far as the process table tells by now."""

    async def close(self) -> None:
        """Ends the page even when its main thread spins; at most ``CLOSE_SECONDS``."""

    async def screenshot(self) -> bytes:
        """A PNG."""

    async def evaluate(self, script: str) -> Any:
        """Runs a script beside the page's own; for diagnosis."""


class AttachedPage:
    """A page under Playwright, as in Firefox, where its protocol costs tensors nothing.

    What it fetches is another matter: Playwright has Firefox keep response bodies, and Firefox's main process keeps each a
    second time: it grows with every model. What comes over the WebSocket neither of them sees.
    """

    watched = True

    def __init__(
        self, context: BrowserContext, page: Page, on_lost: OnLost, explained: Callable[[Fault], Fault]
    ) -> None:
        self._context, self._page, self._on_lost = context, page, on_lost
        self._explained = explained
        self._gone = False
        page.on("crash", lambda _: self._lost("the content process of the model page died"))
        page.on("close", lambda _: self._lost("the model page closed"))

    def _lost(self, how: str) -> None:
        self._gone = True
        self._on_lost(PageCrashed(how))

    def explained(self, fault: Fault) -> Fault:
        found = self._explained(fault)
        self._gone = self._gone or found is not fault
        return found

    async def close(self) -> None:
        if self._gone:  # closing a context whose content process died takes as long as one waits
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._context.close()

    async def screenshot(self) -> bytes:
        async with asyncio.timeout(CLOSE_SECONDS):
            return await self._page.screenshot()

    async def evaluate(self, script: str) -> Any:
        async with asyncio.timeout(CLOSE_SECONDS):
            return await self._page.evaluate(script)


class UnattachedTarget:
    """A Chromium page that Playwright launched but does not watch."""

    watched = False

    def __init__(self, cdp: CDPSession, target: str) -> None:
        self._cdp, self._target = cdp, target

    def explained(self, fault: Fault) -> Fault:
        return fault  # Chromium says by itself when a target crashed

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._cdp.send("Target.closeTarget", {"targetId": self._target})

    async def screenshot(self) -> bytes:
        reply = await self._once("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(reply["data"])

    async def evaluate(self, script: str) -> Any:
        reply = await self._once(
            "Runtime.evaluate", {"expression": script, "awaitPromise": True, "returnByValue": True}
        )
        if "exceptionDetails" in reply:
            raise LaunchFailed(f"evaluating {script[:80]!r}: {reply['exceptionDetails'].get('text')}")
        return reply["result"].get("value")

    async def _once(self, method: str, params: Mapping[str, Any]) -> Any:
        """One command to the target through a session of its own, which ends with it."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def received(event: Mapping[str, Any]) -> None:
            if event.get("targetId", self._target) != self._target or future.done():
                return
            message = json.loads(event["message"])
            if message.get("id") == 1:
                future.set_result(message)

        self._cdp.on("Target.receivedMessageFromTarget", received)
        async with asyncio.timeout(CLOSE_SECONDS):
            session = (
                await self._cdp.send("Target.attachToTarget", {"targetId": self._target, "flatten": False})
            )["sessionId"]
            try:
                text = json.dumps({"id": 1, "method": method, "params": params})
                await self._cdp.send("Target.sendMessageToTarget", {"sessionId": session, "message": text})
                message = await future
            finally:
                self._cdp.remove_listener("Target.receivedMessageFromTarget", received)
                await self._cdp.send("Target.detachFromTarget", {"sessionId": session})
        if "error" in message:
            raise LaunchFailed(f"{method} on the model page: {message['error'].get('message')}")
        return message["result"]
