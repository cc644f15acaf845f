"""Starts and supervises browsers. The only module that imports Playwright.

In Chromium the model page is a target that Playwright does not attach to: an attached page pays for every byte in its
network domain, six to fifteen times (docs/architecture.md has the measurement). Playwright still owns the process.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import psutil
from playwright.async_api import Browser, BrowserContext, CDPSession, Page, Playwright, async_playwright
from playwright.async_api import Error as PlaywrightError

from pytest_browserpool.browsers import processes
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.flags import (
    CHROMIUM_FLAGS,
    EXTRA_FLAGS,
    FIREFOX_PREFS,
    ROOT_FLAGS,
    merge_flags,
)
from pytest_browserpool.errors import BrowserCrashed, Fault, LaunchFailed, PageCrashed

OnLost = Callable[[Fault], None]

CLOSE_SECONDS = 5.0
"""A page closes in 20 ms, a spinning one in 0.8 s; a browser with a stopped renderer never does and is killed."""


class ModelPage(Protocol):
    """A page that the node talks to over its own WebSocket."""

    async def close(self) -> None:
        """Ends the page even when its main thread spins; at most ``CLOSE_SECONDS``."""

    async def screenshot(self) -> bytes:
        """A PNG."""

    async def evaluate(self, script: str) -> Any:
        """Runs a script beside the page's own; for diagnosis."""


class AttachedPage:
    """A page under Playwright, as in Firefox, where its protocol costs tensors nothing."""

    def __init__(self, context: BrowserContext, page: Page, on_lost: OnLost) -> None:
        self._context, self._page, self._on_lost = context, page, on_lost
        page.on("crash", lambda _: on_lost(PageCrashed("the content process of the model page died")))
        page.on("close", lambda _: on_lost(PageCrashed("the model page closed")))

    async def close(self) -> None:
        with contextlib.suppress(PlaywrightError, TimeoutError):
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

    def __init__(self, cdp: CDPSession, target: str) -> None:
        self._cdp, self._target = cdp, target

    async def close(self) -> None:
        with contextlib.suppress(PlaywrightError, TimeoutError):
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


class BrowserProcess:
    """One running browser."""

    def __init__(
        self, installed: InstalledBrowser, browser: Browser, token: str, launch_ms: float, on_lost: OnLost
    ) -> None:
        self.installed = installed
        self.token = token
        self.launch_ms = launch_ms
        self.version = browser.version
        self.launched_at = time.time()
        self._browser = browser
        self._cdp: CDPSession | None = None
        self._targets: dict[str, OnLost] = {}
        self._closing = False
        self._main = processes.main_process(token)
        self.pid = self._main.pid if self._main else None
        browser.on("disconnected", lambda _: self._lost(on_lost))

    def _lost(self, on_lost: OnLost) -> None:
        if not self._closing:
            on_lost(BrowserCrashed(f"{self.installed.name} {self.version} (pid {self.pid}) is gone"))

    @property
    def connected(self) -> bool:
        return self._browser.is_connected()

    def memory(self) -> int:
        """Bytes of the whole process tree. Takes some milliseconds: call it from a thread."""
        return processes.memory_of(self._main)

    def process_tree(self) -> list[psutil.Process]:
        """The browser's processes now."""
        return processes.marked(self.token)

    async def open_model_page(self, url: str, on_lost: OnLost) -> ModelPage:
        """Opens ``url``. ``on_lost`` is called at most once for a crash or an end that nobody asked for."""
        if self.installed.engine == "chromium":
            return await self._open_target(url, on_lost)
        context = await self._browser.new_context()
        page = await context.new_page()
        await page.goto(url, wait_until="commit")
        return AttachedPage(context, page, on_lost)

    async def _open_target(self, url: str, on_lost: OnLost) -> ModelPage:
        if self._cdp is None:
            self._cdp = await self._browser.new_browser_cdp_session()
            self._cdp.on(
                "Target.targetCrashed",
                lambda e: self._target_lost(e["targetId"], f"crashed ({e.get('status')})"),
            )
            self._cdp.on("Target.targetDestroyed", lambda e: self._target_lost(e["targetId"], "closed"))
            await self._cdp.send("Target.setDiscoverTargets", {"discover": True})
        target = (await self._cdp.send("Target.createTarget", {"url": url}))["targetId"]
        self._targets[target] = on_lost
        return UnattachedTarget(self._cdp, target)

    def _target_lost(self, target: str, how: str) -> None:
        on_lost = self._targets.pop(target, None)
        if on_lost is not None and not self._closing:
            on_lost(PageCrashed(f"the renderer of the model page {how}"))

    async def new_context(self, **options: Any) -> BrowserContext:
        """A context of Playwright's own, for leased pages."""
        return await self._browser.new_context(**options)

    async def close(self) -> None:
        """Closes it; what does not close in time is killed, and what it left running too."""
        self._closing = True
        with contextlib.suppress(PlaywrightError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._browser.close()
        await asyncio.to_thread(processes.kill, self.token)

    async def kill(self) -> None:
        """Ends it at once."""
        self._closing = True
        await asyncio.to_thread(processes.kill, self.token)
        with contextlib.suppress(PlaywrightError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._browser.close()


class Launcher:
    """Playwright's driver for one node, and the browsers that it started."""

    def __init__(self, workdir: processes.Workdir, launch_timeout: float) -> None:
        self._workdir = workdir
        self._timeout = launch_timeout
        self._playwright: Playwright | None = None
        self._starting = asyncio.Lock()
        self._count = 0

    async def _driver(self) -> Playwright:
        async with self._starting:
            if self._playwright is None:
                # The driver puts profiles under its TMPDIR and has no option for it; it reads the variable once, here.
                before = os.environ.get("TMPDIR")
                os.environ["TMPDIR"] = str(self._workdir.path)
                try:
                    async with asyncio.timeout(self._timeout):
                        self._playwright = await async_playwright().start()
                except TimeoutError:
                    raise LaunchFailed(
                        f"Playwright's driver did not start within {self._timeout:g} s"
                    ) from None
                finally:
                    if before is None:
                        os.environ.pop("TMPDIR", None)
                    else:
                        os.environ["TMPDIR"] = before
            return self._playwright

    async def launch(self, installed: InstalledBrowser, on_lost: OnLost) -> BrowserProcess:
        """Starts a browser.

        Raises:
            LaunchFailed: it did not start within ``launch_timeout``, or is not a browser.
        """
        playwright = await self._driver()
        self._count += 1
        token = f"{self._workdir.token}/{self._count}"
        environment = {
            **os.environ,
            "TMPDIR": str(self._workdir.path),
            **installed.environment,
            processes.MARK: token,
        }
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout + 1):
                browser = await self._start(playwright, installed, environment)
        except (PlaywrightError, TimeoutError) as error:
            await asyncio.to_thread(processes.kill, token)
            raise self._failed(installed, error) from error
        return BrowserProcess(installed, browser, token, (time.perf_counter() - started) * 1000, on_lost)

    async def _start(
        self, playwright: Playwright, installed: InstalledBrowser, environment: dict[str, str]
    ) -> Browser:
        if installed.endpoint:
            return await playwright.chromium.connect_over_cdp(
                installed.endpoint, timeout=self._timeout * 1000
            )
        options: dict[str, Any] = {
            "executable_path": installed.executable,
            "channel": installed.channel,
            "env": environment,
            "timeout": self._timeout * 1000,
            # Ctrl-C and SIGTERM are the node's to handle: it reports first and closes then
            "handle_sigint": False,
            "handle_sigterm": False,
            "handle_sighup": False,
        }
        if installed.engine == "chromium":
            root = ROOT_FLAGS if os.getuid() == 0 else ()
            extra = EXTRA_FLAGS.get(installed.name, ())
            args = merge_flags(CHROMIUM_FLAGS, root, extra, installed.flags)
            return await playwright.chromium.launch(args=args, **options)
        if installed.engine == "firefox":
            prefs = {**FIREFOX_PREFS, **installed.prefs}
            return await playwright.firefox.launch(
                args=list(installed.flags), firefox_user_prefs=prefs, **options
            )
        return await playwright.webkit.launch(args=list(installed.flags), **options)

    def _failed(self, installed: InstalledBrowser, error: Exception) -> LaunchFailed:
        place = installed.executable or installed.endpoint or f"channel {installed.channel}"
        text = str(error).strip().splitlines()
        return LaunchFailed(
            f"{installed.name} did not start: {text[0] if text else f'no answer within {self._timeout:g} s'}",
            where=place,
            remedy="run `browserpool doctor`; start the executable by hand to see what it says",
        )

    async def close(self) -> None:
        """Stops the driver; browsers must be closed before."""
        if self._playwright is not None:
            with contextlib.suppress(
                Exception, TimeoutError
            ):  # a driver that Ctrl-C or a kill took is gone already
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._playwright.stop()
            self._playwright = None
