"""Starts and supervises browsers. The only module that imports Playwright.

In Chromium the model page is a target that Playwright does not attach to: an attached page pays for every byte in its
network domain, six to fifteen times (docs/architecture.md has the measurement). Playwright still owns the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from playwright.async_api import Browser, BrowserContext, CDPSession, Playwright, async_playwright
from playwright.async_api import Error as PlaywrightError

from pytest_browserpool.artefacts import pins
from pytest_browserpool.browsers import code_cache, firefox, processes, symptoms
from pytest_browserpool.browsers.answers import on_hardware
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.flags import FIREFOX_PREFS, switches
from pytest_browserpool.browsers.identity import fingerprint
from pytest_browserpool.browsers.targets import (
    CLOSE_SECONDS,
    AttachedPage,
    ModelPage,
    OnLost,
    UnattachedTarget,
)
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import BrowserCrashed, BrowserPoolError, Fault, LaunchFailed, PageCrashed

Keep = Callable[[Path], None]
"""Takes from a profile what is worth keeping; called in a thread while its browser still runs."""

DRIVER_CHECK_SECONDS = 0.1
"""Between looks at the driver's process (50 µs each): less than a closed socket waits for its explanation."""


THERE_SECONDS = 0.3
"""After which a browser that starts has its process, and is not done: Chromium takes half a second, Firefox two."""

DEATH_SECONDS = 0.1
"""A page that closes waits so long for its browser's death, which is told later and explains it: a killed process
closes its connections before it is gone."""


class BrowserProcess:
    """One running browser."""

    def __init__(
        self,
        installed: InstalledBrowser,
        browser: Browser,
        token: str,
        main: psutil.Process | None,
        launch_ms: float,
        on_lost: OnLost,
        keep: Keep | None = None,
        kept_code: bool | None = None,
        bundle: str = "all",
    ) -> None:
        self.installed = installed
        self.token = token
        self.launch_ms = launch_ms
        self.version = browser.version
        self.launched_at = time.time()
        self.kept_code = kept_code
        """Whether it started with compiled code of an earlier run; None: a kind of browser for which none is kept."""
        self._browser = browser
        self._cdp: CDPSession | None = None
        self._targets: dict[str, OnLost] = {}
        self._closing = False
        self._cut_off = False
        self._main = main
        self.pid = main.pid if main else None
        self._on_lost = on_lost
        self._keep = keep
        self.bundle = bundle
        """Whose compiled code it started with, and is to be kept."""
        self._opened: list[str] = []
        """Bundles of the model pages so far."""
        self.windows = 0
        """Opened so far through Playwright, each in a context of its own."""
        browser.on("disconnected", lambda _: self._lost("is gone"))

    def _lost(self, how: str) -> None:
        if not self._closing:
            self._on_lost(BrowserCrashed(f"{self.installed.name} {self.version} (pid {self.pid}) {how}"))

    def cut_off(self) -> None:
        """Its driver died: Chromium ends with it, and Firefox is out of reach."""
        self._cut_off = True
        self._lost("lost Playwright's driver")

    def _explained(self, fault: Fault, pages: Sequence[psutil.Process] = ()) -> Fault:
        """A page that closes because its browser died is told of first: the death explains it. Firefox does not say
        that the process of a page died; ``pages``: those that held pages when this one was opened."""
        if self._main is not None and not processes.alive(self._main):
            return BrowserCrashed(f"{self.installed.name} {self.version} (pid {self.pid}) is gone")
        dead = [process.pid for process in pages if not processes.alive(process)]
        return (
            PageCrashed(f"a content process of {self.installed.name} died (pid {dead[0]})") if dead else fault
        )

    @property
    def host(self) -> str | None:
        """The name under which its pages reach the node's server; None: by address."""
        return code_cache.HOST if _mapped(self.installed) else None

    @property
    def connected(self) -> bool:
        return not self._cut_off and self._browser.is_connected()

    def memory(self) -> int:
        """Bytes of the whole process tree. Takes some milliseconds: call it from a thread."""
        return processes.memory_of(self._main)

    def process_tree(self) -> list[psutil.Process]:
        """The browser's processes now."""
        return processes.marked(self.token)

    async def open_model_page(self, url: str, on_lost: OnLost, bundle: str) -> ModelPage:
        """Opens ``url``. ``on_lost`` is called at most once for a crash or an end that nobody asked for."""
        self._opened.append(bundle)
        if self.installed.engine == "chromium":
            return await self._open_target(url, on_lost)
        context = await self.new_context()
        page = await context.new_page()
        await page.goto(url, wait_until="commit")
        loop = asyncio.get_running_loop()

        def lost(fault: Fault) -> None:
            loop.call_later(DEATH_SECONDS, lambda: on_lost(self._explained(fault)))

        pages = await asyncio.to_thread(firefox.content_processes, self._main)
        return AttachedPage(context, page, lost, lambda fault: self._explained(fault, pages))

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
        """A context of Playwright's own, for one page."""
        self.windows += 1
        return await self._browser.new_context(**options)

    async def close(self) -> None:
        """Closes it; what does not close in time is killed, and what it left running too."""
        self._closing = True
        # a second page reads what the first one wrote, and writes worse
        alone = self._opened == [self.bundle]
        if self._keep is not None and alone and (profile := self._profile()) is not None:
            # a disk that hangs costs the code, not the end of the run
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.to_thread(self._keep, profile)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                if (
                    self.installed.endpoint and self._cdp is not None
                ):  # somebody else's browser lives on: our tabs must not
                    for target in self._targets:
                        await self._cdp.send("Target.closeTarget", {"targetId": target})
                await self._browser.close()
        with contextlib.suppress(OSError):  # the guardian ends what cannot be ended now
            await asyncio.to_thread(processes.kill, self.token)

    def _profile(self) -> Path | None:
        """Where this Chromium keeps its profile, as its own command line says."""
        switch = "--user-data-dir="
        with contextlib.suppress(psutil.Error):
            words = self._main.cmdline() if self._main is not None else ()
            return next((Path(word.removeprefix(switch)) for word in words if word.startswith(switch)), None)
        return None

    async def kill(self) -> None:
        """Ends it at once."""
        self._closing = True
        with contextlib.suppress(OSError):  # the guardian ends what cannot be ended now
            await asyncio.to_thread(processes.kill, self.token)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._browser.close()


class Launcher:
    """Playwright's driver for one node, and the browsers that it started."""

    def __init__(
        self, workdir: processes.Workdir, settings: Settings, code: code_cache.CodeCache | None
    ) -> None:
        self._workdir = workdir
        self._settings = settings
        self._timeout = settings.launch_timeout
        self._code = code
        self._playwright: Playwright | None = None
        self._starting = asyncio.Lock()
        self._count = 0
        self._started: list[BrowserProcess] = []
        self._watch: asyncio.Task[None] | None = None

    async def _driver(self) -> Playwright:
        async with self._starting:
            if self._playwright is None:
                known = {p.pid for p in processes.drivers()}
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
                mine = [p for p in processes.drivers() if p.pid not in known]
                self._watch = asyncio.create_task(self._watched(self._playwright, mine))
            return self._playwright

    async def _watched(self, playwright: Playwright, driver: list[psutil.Process]) -> None:
        """Until the driver dies: its browsers are lost then, and the next launch starts another driver."""
        while all(processes.alive(p) for p in driver):  # noqa: ASYNC110 - the operating system sends no event
            await asyncio.sleep(DRIVER_CHECK_SECONDS)
        if self._playwright is playwright:
            self._playwright = None
        started, self._started = self._started, []
        for process in started:
            process.cut_off()

    async def launch(
        self, installed: InstalledBrowser, on_lost: OnLost, port: int, bundle: str
    ) -> BrowserProcess:
        """Starts a browser whose model pages come from the node's server at ``port``, the first one with ``bundle``.

        Raises:
            LaunchFailed: it did not start within ``launch_timeout``, or is not a browser.
        """
        try:
            playwright = await self._driver()
        except OSError as error:
            raise self._failed(installed, error) from error
        self._count += 1
        token = f"{self._workdir.token}/{self._count}"
        environment = {
            **os.environ,
            "TMPDIR": str(self._workdir.path),
            **(firefox.home(self._workdir.path) if installed.engine == "firefox" else {}),
            **installed.environment,
            processes.MARK: token,
        }
        started = time.perf_counter()
        main = asyncio.create_task(_main_process(token))
        try:
            async with asyncio.timeout(self._timeout + 1):
                browser = await self._start(playwright, installed, environment, port, bundle)
        except Exception as error:
            main.cancel()
            with contextlib.suppress(OSError):  # the guardian ends what cannot be ended now
                await asyncio.to_thread(processes.kill, token, 0.0)
            raise self._failed(installed, error) from error
        launch_ms = (time.perf_counter() - started) * 1000
        try:
            keep = self._keeper(installed, environment, bundle)
            kept_code = code_cache.SEED in environment if _mapped(installed) else None
            found = await main or await asyncio.to_thread(processes.main_process, token)
            process = BrowserProcess(
                installed, browser, token, found, launch_ms, on_lost, keep, kept_code, bundle
            )
        except BaseException as error:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await browser.close()
            if isinstance(error, OSError):  # the process table cannot be read: no file descriptor is left
                raise self._failed(installed, error) from error
            raise
        self._started = [p for p in self._started if p.connected] + [process]
        return process

    def _keeper(
        self, installed: InstalledBrowser, environment: Mapping[str, str], bundle: str
    ) -> Keep | None:
        code = self._code
        if code is None or not _mapped(installed) or code_cache.SEED in environment:
            return None
        name = code_cache.name_of(fingerprint(installed, self._settings), bundle)
        return lambda profile: code.keep(name, profile)

    def _seeded(self, installed: InstalledBrowser, environment: dict[str, str], bundle: str) -> str | None:
        """What to execute so that a Chromium starts with compiled code in its profile."""
        if self._code is None or not installed.executable:
            return installed.executable
        seed = self._code.seed(code_cache.name_of(fingerprint(installed, self._settings), bundle))
        wrapper = code_cache.wrapper(self._workdir.path) if seed is not None else None
        if wrapper is None:
            return installed.executable
        environment[code_cache.SEED] = str(seed)
        environment[code_cache.EXECUTABLE] = installed.executable
        return str(wrapper)

    async def _start(
        self,
        playwright: Playwright,
        installed: InstalledBrowser,
        environment: dict[str, str],
        port: int,
        bundle: str,
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
            hardware = on_hardware(installed, self._settings, pins.default_cache())
            root = os.getuid() == 0
            args = switches(installed.name, port, hardware=hardware, root=root, own=installed.flags)
            options["executable_path"] = self._seeded(installed, environment, bundle)
            return await playwright.chromium.launch(args=args, **options)
        if installed.engine == "firefox":
            prefs = {**FIREFOX_PREFS, **installed.prefs}
            wrapper = firefox.wrapper(self._workdir.path)
            if installed.executable and wrapper is not None:
                environment[firefox.EXECUTABLE] = installed.executable
                options["executable_path"] = str(wrapper)
            return await playwright.firefox.launch(
                args=list(installed.flags), firefox_user_prefs=prefs, **options
            )
        return await playwright.webkit.launch(args=list(installed.flags), **options)

    def _failed(self, installed: InstalledBrowser, error: Exception) -> LaunchFailed:
        place = installed.executable or installed.endpoint or f"channel {installed.channel}"
        return LaunchFailed(
            f"{installed.name} did not start: {symptoms.said_at_launch(error) or f'no answer within {self._timeout:g} s'}",
            where=place,
            remedy="run `browserpool doctor`; start the executable by hand to see what it says",
        )

    async def close(self) -> None:
        """Stops the driver; browsers must be closed before."""
        if self._watch is not None:
            self._watch.cancel()
        if self._playwright is not None:
            with contextlib.suppress(
                Exception, TimeoutError
            ):  # a driver that Ctrl-C or a kill took is gone already
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._playwright.stop()
            self._playwright = None


async def _main_process(token: str) -> psutil.Process | None:
    """The browser's own process, looked for while the browser still starts: the look takes a while too."""
    await asyncio.sleep(THERE_SECONDS)
    return await asyncio.to_thread(processes.main_process, token)


def is_of_the_browser(error: Exception) -> bool:
    """Whether a browser's or its driver's failure may look like this; what does not is a mistake in the code, which no other
    browser would mend. Playwright raises a bare ``Exception`` once its driver is dead."""
    kinds = (PlaywrightError, BrowserPoolError, OSError, TimeoutError, psutil.Error)
    return isinstance(error, kinds) or type(error) is Exception


def _mapped(installed: InstalledBrowser) -> bool:
    """Whether it is a Chromium that we start: its switches are ours."""
    return installed.engine == "chromium" and not installed.endpoint
