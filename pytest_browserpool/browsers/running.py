"""The running browsers of one pool: at most N, each with a reason to go, the least recently used first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from pytest_browserpool.browsers import sizing
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.channel import PageChannel
from pytest_browserpool.browsers.instance import BrowserInstance
from pytest_browserpool.browsers.kinds import WHOLE, Builds, PageKind
from pytest_browserpool.browsers.launch import Launcher
from pytest_browserpool.browsers.page import Session
from pytest_browserpool.browsers.serve import Server
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import BrowserCrashed, CapabilityError, Fault, NoBrowser

Emit = Callable[[str, Mapping[str, Any]], None]
"""``emit(name, fields)``: something happened that history or scheduler want to know."""

LENT_SLOT = 1000
"""From here on slots are of browsers lent to other nodes: they are others than those of this node's tests, so that a page
that hangs, or a browser that is ended, is nobody else's."""

LENT_SECONDS = 45.0
"""That a test which needs more browsers than are left waits for those that are lent: less than its own deadline, so that
it can say what it waited for."""

LOOK_SECONDS = 0.2
"""Between looks whether they are back."""


class RunningBrowsers:
    """Launches browsers, keeps as many as it may, and closes them. Everything runs in the node's event loop."""

    def __init__(
        self,
        settings: Settings,
        installed: tuple[InstalledBrowser, ...],
        launcher: Launcher,
        server: Server,
        channels: dict[str, PageChannel],
        *,
        threads: int,
        small: bool,
        emit: Emit,
        on_session_gone: Callable[[BrowserInstance, Session], None],
    ) -> None:
        self.installed = {b.name: b for b in installed}
        self.instances: list[BrowserInstance] = []
        self.launches = 0
        self.whole: frozenset[str] = frozenset()
        """Of which the run needs more than wasm: their pages begin with the whole onnxruntime-web."""
        self.lent = 0
        """Browsers that are kept for other nodes' models, running or not."""
        self._settings = settings
        self._launcher = launcher
        self._server = server
        self._channels = channels
        self._threads, self._small = threads, small
        self._emit = emit
        self._on_session_gone = on_session_gone
        self._places = asyncio.Lock()
        self._sizing = sizing.Sizing(size=settings.max_browsers, most=settings.max_browsers)
        self.evicted = 0
        """Closed to make room for another."""
        self._closing: set[asyncio.Future[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        """Looks whether the pool can shrink when some of its surplus has not been used for long enough."""

    async def close(self) -> None:
        """Closes all of them, and the driver."""
        if self._again is not None:
            self._again.cancel()
        instances, self.instances = self.instances, []
        closing = [self._close(i, "end of run") for i in instances]
        await asyncio.gather(*closing, *self._closing, return_exceptions=True)
        await self._launcher.close()

    async def browser(
        self, name: str, slot: int = 0, kind: PageKind | None = None
    ) -> tuple[BrowserInstance, float]:
        """A running browser of this name and the milliseconds that launching it took (0 where it ran).

        ``slot``: which of several of the name; all count against ``max_browsers``. ``kind``: for a load: a browser that
        is launched opens its page at once, which belongs to the price of one more browser.

        Raises:
            NoBrowser: the node has none of this name.
            LaunchFailed: it did not start.
        """
        # one with its page need not wait until another is launched, which takes seconds
        if (running := self.running(name, slot)) is not None and running.pages:
            return running, 0.0
        until = time.monotonic() + LENT_SECONDS
        while True:
            async with self._places:
                for instance in list(self.instances):
                    if not instance.usable:
                        self._abandon(instance, str(instance.lost or "disconnected"))
                    elif (complaint := instance.complaint) is not None:
                        self._abandon(instance, complaint)
                if (running := self.running(name, slot)) is not None:
                    return running, 0.0
                if await self._make_room(self._promised(slot), wait=time.monotonic() < until):
                    return await self._launch(name, slot, kind)
            await asyncio.sleep(LOOK_SECONDS)

    def running(self, name: str, slot: int) -> BrowserInstance | None:
        """The one that can be given to a test now. From any thread."""
        for instance in list(self.instances):
            if instance.name == name and instance.slot == slot and instance.usable and not instance.complaint:
                instance.last_used = time.monotonic()
                return instance
        return None

    async def _launch(self, name: str, slot: int, kind: PageKind | None) -> tuple[BrowserInstance, float]:
        installed = self.installed.get(name)
        if installed is None:
            raise NoBrowser(
                f"no browser {name!r} on this node", remedy=f"here are {', '.join(self.installed) or 'none'}"
            )
        holder: list[BrowserInstance] = []

        def on_lost(fault: Fault) -> None:
            if holder:
                holder[0].lose(fault)

        self._emit("begins", {"what": "launching", "browser": name, "sha256": ""})
        builds = Builds(self._threads, self._small, name in self.whole)
        bundle = builds.of(kind or WHOLE).bundle
        process = await self._launcher.launch(installed, on_lost, self._server.port, bundle)
        instance = BrowserInstance(process, self._server, self._channels, builds, self._on_session_gone)
        holder.append(instance)
        instance.slot = slot
        if installed.engine == "firefox":
            instance.most_windows = self._settings.firefox_max_windows
        instance.health.memory_limit_bytes = int(self._settings.page_max_memory_gib * (1 << 30))
        instance.health.ping_limit_ms = self._settings.ping_timeout * 1000
        self.instances.append(instance)
        self.launches += 1
        launch_ms = process.launch_ms
        try:
            if kind is not None:
                started = time.perf_counter()
                with instance.in_use():
                    await instance.page(kind)
                launch_ms += (time.perf_counter() - started) * 1000
        finally:
            self._emit(
                "launched",
                {
                    "instance": instance.identity,
                    "browser": name,
                    "family": installed.family,
                    "version": process.version,
                    "executable": installed.executable or "",
                    "launched_at": process.launched_at + (launch_ms - process.launch_ms) / 1000,
                    "launch_ms": launch_ms,
                    "kept_code": process.kept_code,
                },
            )
        return instance, launch_ms

    def _promised(self, slot: int) -> int:
        """Places kept for other nodes that no browser has taken yet, where the next one is not theirs."""
        taken = sum(1 for i in self.instances if i.slot >= LENT_SLOT and i.leases)
        return max(0, self.lent - taken) if slot < LENT_SLOT else 0

    async def _make_room(self, promised: int, *, wait: bool) -> bool:
        """Whether there is room for one more beside those ``promised``; not yet, where ``wait`` may bring lent ones back."""
        most = self._settings.max_browsers - promised
        while len(self.instances) >= min(most, self._sizing.most):
            leaving = sizing.first_to_go(self.instances, self._sizing.soon)
            if leaving is None and len(self.instances) < most:
                # memory for one browser less, but all are at work: their test needs them together
                return True
            if leaving is None and self.lent and wait:
                return False
            if leaving is None:
                lent = f", and {self.lent} are lent to shards of another node's test" if self.lent else ""
                raise CapabilityError(
                    f"all {len(self.instances)} browsers of this node are leased{lent}",
                    remedy=f"end a lease first, or --browserpool-max-browsers={self._settings.max_browsers + 1}",
                )
            self.evicted += 1
            await self.retire(leaving, "least recently used")
        return True

    async def resize(self, size: int, most: int, soon: frozenset[str]) -> None:
        """Keep ``size`` browsers from now on, as long as no more are in use, and never more than ``most`` where that
        can be; those that are needed ``soon`` go last."""
        self._sizing = sizing.Sizing(size=size, most=most, soon=soon)
        await self.shrink()

    async def shrink(self) -> None:
        """Closes what is beyond the advised size and was not used for the cool-down; what was is looked at again then."""
        patience = self._settings.pool_cool_down
        async with self._places:
            # one by one: while the first of them closes, a test may take the next
            while spare := sizing.surplus(self.instances, self._sizing, time.monotonic() - patience):
                await self.retire(spare[0], "the plan needs fewer")
            young = sizing.surplus(self.instances, self._sizing)
        if young and self._again is None:
            wait = min(b.last_used for b in young) + patience - time.monotonic()
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(max(0.0, wait) + LOOK_SECONDS, self._shrink_again)

    def _shrink_again(self) -> None:
        self._again = None
        shrinking = asyncio.ensure_future(self.shrink())
        self._closing.add(shrinking)
        shrinking.add_done_callback(self._closing.discard)

    async def retire(self, instance: BrowserInstance, reason: str) -> None:
        """Closes it, whatever uses it."""
        if instance in self.instances:
            self.instances.remove(instance)
        await self._close(instance, reason)

    def abandon(self, name: str, reason: str, slot: int = 0) -> None:
        """Gives up the browser of this name, whoever holds it: its successor need not wait for it to be dead, which ``close``
        sees to."""
        for instance in [i for i in self.instances if i.name == name and i.slot == slot]:
            instance.lose(BrowserCrashed(f"{name} was ended: {reason}"))
            self._abandon(instance, reason)

    def _abandon(self, instance: BrowserInstance, reason: str) -> None:
        self.instances.remove(instance)
        closing = asyncio.ensure_future(self._close(instance, reason))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def retire_idle(self, name: str) -> None:
        """Closes the browser of this name unless something holds it."""
        for instance in [i for i in self.instances if i.name == name]:
            if (
                not instance.leases and instance in self.instances
            ):  # since the one before it began to close, too
                await self.retire(instance, "nothing more needs it")

    async def _close(self, instance: BrowserInstance, reason: str) -> None:
        await instance.close()
        self._emit("closed", {"instance": instance.identity, "browser": instance.name, "reason": reason})
