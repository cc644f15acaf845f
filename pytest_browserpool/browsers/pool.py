"""The pool of one node: at most N browsers, warm sessions kept, the least recently used let go.

Everything here runs in the node's one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from pytest_browserpool.artefacts import runtime
from pytest_browserpool.artefacts.cache import state_of
from pytest_browserpool.browsers import code_cache
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.channel import PageChannel
from pytest_browserpool.browsers.instance import BrowserInstance
from pytest_browserpool.browsers.kinds import PageKind
from pytest_browserpool.browsers.launch import Launcher
from pytest_browserpool.browsers.page import RuntimePage, Session, SessionKey
from pytest_browserpool.browsers.processes import Workdir
from pytest_browserpool.browsers.protocol import Packed, StateUse
from pytest_browserpool.browsers.running import Emit, RunningBrowsers
from pytest_browserpool.browsers.serve import Server
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import Fault, PageHung

T = TypeVar("T")

SESSIONS_PER_PAGE = 32
"""Warm sessions kept in one page whatever the memory says: each holds weights and GPU buffers."""

PAGE_BYTES = 3 << 30
"""Of models in one page: WebAssembly addresses four GiB, and onnxruntime-web needs some beside the weights. With seven models
of 400 MB in a page the eighth met ``std::bad_alloc``."""

RELEASE_SECONDS = 10.0
"""A release takes milliseconds; a page that does not manage it in this time is closed instead."""


@dataclass(frozen=True)
class ModelContent:
    """A model by content, as the pool needs it."""

    sha256: str
    path: Path
    label: str
    size: int
    external: tuple[tuple[str, Path], ...] = ()
    stamps: tuple[tuple[int, ...], ...] = ()
    """``state_of`` each of its files when they were looked at; none where nobody but us writes them."""


def stamps_of(path: Path, external: Iterable[tuple[str, Path]]) -> tuple[tuple[int, ...], ...]:
    """Of a model's files as they are now; what cannot be read stands as ()."""
    return tuple(_stamp(file) for file in (path, *(beside for _, beside in external)))


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        return state_of(file)
    except OSError:
        return ()


@dataclass
class Loaded:
    """A session in a place, ready to run."""

    instance: BrowserInstance
    page: RuntimePage
    session: Session
    warm: bool
    launch_ms: float
    """Milliseconds of launching the browser for this load; 0 where it ran."""
    load_ms: float
    """Milliseconds of creating the session (and the page, where it was new); 0 where it was warm."""


class Pool:
    """Browsers, pages and sessions of a node."""

    def __init__(
        self,
        settings: Settings,
        installed: tuple[InstalledBrowser, ...],
        runtime_dir: Path,
        workdir: Workdir,
        *,
        threads: int,
        memory_limit: int,
        emit: Emit,
    ) -> None:
        self.settings = settings
        self.loads = 0
        self.warm_hits = 0
        self._evicted = 0
        self._channels: dict[str, PageChannel] = {}
        code, runtime_path = code_cache.opened(settings, runtime_dir)
        self._server = Server(runtime_dir, self._on_socket, runtime_path)
        self._memory_limit = memory_limit
        self._emit = emit
        self.running = RunningBrowsers(
            settings,
            installed,
            Launcher(workdir, settings, code),
            self._server,
            self._channels,
            threads=threads,
            small=runtime.has_small(runtime_dir),
            emit=emit,
            on_session_gone=self._session_gone,
        )
        self._beside: set[asyncio.Task[None]] = set()
        self._ended = False

    async def start(self) -> None:
        await self._server.start()

    async def close(self) -> None:
        """Closes every browser, the driver and the server; each with its own deadline."""
        self._ended = True
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self.running.close()
        await self._server.close()

    def beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that no test waits for, such as loading a standby: it ends with the pool at the latest."""
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    def offer(self, name: str, path: Path) -> str:
        """Serves a file to the pages; returns its path on the node's server."""
        return self._server.offer(name, path)

    async def _on_socket(self, page_id: str, socket: web.WebSocketResponse) -> None:
        channel = self._channels.get(page_id)
        if channel is not None:
            await channel.attach(socket)

    # -- browsers ---------------------------------------------------------------------------------------------------

    @property
    def installed(self) -> Mapping[str, InstalledBrowser]:
        """What can be launched, by name."""
        return self.running.installed

    @property
    def instances(self) -> Sequence[BrowserInstance]:
        """The browsers that run."""
        return self.running.instances

    @property
    def launches(self) -> int:
        """Browsers launched so far."""
        return self.running.launches

    async def browser(
        self, name: str, slot: int = 0, kind: PageKind | None = None
    ) -> tuple[BrowserInstance, float]:
        """As ``RunningBrowsers.browser``."""
        return await self.running.browser(name, slot, kind)

    async def drop_lost(self, name: str) -> None:
        """Closes the pages of this browser that must not be used again."""
        for instance in [i for i in self.instances if i.name == name]:
            for page in [p for p in instance.pages.values() if p.lost is not None]:
                await instance.drop(page)

    def _session_gone(self, instance: BrowserInstance, session: Session) -> None:
        key = session.key
        self._emit("session_gone", _whereabouts(instance, key))

    # -- sessions ---------------------------------------------------------------------------------------------------

    def at_hand(self, browser: str, key: SessionKey) -> Loaded | None:
        """The warm session, where its page has answered a moment ago. From any thread."""
        instance = self.running.running(browser, 0)
        found = instance.find(key) if instance is not None else None
        if instance is None or found is None or not found[0].fresh:
            return None
        return self._warm(instance, *found)

    def _warm(
        self, instance: BrowserInstance, page: RuntimePage, session: Session, launch_ms: float = 0.0
    ) -> Loaded:
        self.warm_hits += 1
        session.last_used = time.monotonic()
        return Loaded(instance, page, session, warm=True, launch_ms=launch_ms, load_ms=0.0)

    @property
    def evictions(self) -> int:
        """Sessions and browsers that made room: for another one, or because they took too much memory."""
        return self._evicted + self.running.evicted

    async def load(
        self, browser: str, key: SessionKey, model: ModelContent, timeout: float, slot: int = 0
    ) -> Loaded:
        """A session of ``model`` in ``browser``: the warm one, or a new one.

        Raises:
            Fault: browser or page failed; both are replaced at the next load.
            UsageError, RunFailed: onnxruntime-web does not take the model.
        """
        instance, launch_ms = await self.browser(browser, slot, key.page)
        found = instance.find(key)
        if found is not None and not await self._pinged(instance, found[0]):
            # it went bad while nobody used it; the test that comes must not pay for that with its own time-out
            await self._clear_away(instance, found[0])
            return await self.load(browser, key, model, timeout, slot)
        if found is not None:
            return self._warm(instance, *found, launch_ms)
        started = time.perf_counter()
        self._emit("begins", {"what": "loading", "browser": browser, "sha256": key.sha256})
        with instance.in_use():
            page = await instance.page(key.page)
            await self._make_room(instance, page, model.size)
            creating = page.create(key, model.path, model.external, label=model.label, timeout=timeout)
            session, made = await self._guarded(instance, page, creating)
        if not made:  # somebody else was at it, a prewarm say
            return self._warm(instance, page, session, launch_ms)
        self.loads += 1
        self._emit("begins", {"what": "", "browser": browser, "sha256": ""})
        self._emit("session_made", _whereabouts(instance, key))
        load_ms = (time.perf_counter() - started) * 1000
        return Loaded(instance, page, session, warm=False, launch_ms=launch_ms, load_ms=load_ms)

    async def _pinged(self, instance: BrowserInstance, page: RuntimePage) -> bool:
        """Whether the page answers. One that does not is lost, and counts for its browser like any fault."""
        started = time.perf_counter()
        with instance.in_use():
            answers = await page.ping(self.settings.ping_timeout)
        if answers:
            instance.health.pinged((time.perf_counter() - started) * 1000)
        return answers

    async def run(
        self, loaded: Loaded, inputs: Mapping[str, Any], timeout: float, state: StateUse | None = None
    ) -> Any:
        """One inference: the page's reply."""
        warm, began = loaded.session.runs > 0, time.monotonic()
        reply = await self.command(
            loaded, loaded.page.run(loaded.session, inputs, timeout=timeout, state=state)
        )
        if warm:
            loaded.instance.ran(loaded.session, began)
        return reply

    async def run_packed(
        self, loaded: Loaded, inputs: Mapping[str, Packed], timeout: float, state: StateUse | None = None
    ) -> Any:
        """One inference on tensors that came from another page; the reply's are ``packed`` too."""
        warm = loaded.session.runs > 0
        reply = await self.command(
            loaded, loaded.page.run_packed(loaded.session, inputs, timeout=timeout, state=state)
        )
        if warm:  # by the page's own clock: the command may have waited there for those sent before it
            loaded.instance.health.succeeded(loaded.session.name, float(reply.values["run_ms"]))
        return reply

    async def benchmark(
        self, loaded: Loaded, inputs: Mapping[str, Any], runs: int, timeout: float
    ) -> list[float]:
        """Milliseconds of each of ``runs`` inferences, timed in the page."""
        return await self.command(
            loaded, loaded.page.benchmark(loaded.session, inputs, runs, timeout=timeout)
        )

    async def command(self, loaded: Loaded, command: Awaitable[T]) -> T:
        """What a command to the session's page brings; the browser is in use meanwhile, and a lost page is closed."""
        with loaded.instance.in_use():
            return await self._guarded(loaded.instance, loaded.page, command)

    async def _guarded(self, instance: BrowserInstance, page: RuntimePage, command: Awaitable[T]) -> T:
        """A lost page is closed before the fault goes on, so that a spinning one takes no CPU from the next test."""
        try:
            return await command
        except (Fault, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                page.lose(PageHung(f"page {page.channel.page_id}: its command was given up"))
            elif page.lost is None:  # a cut connection: what loses the page has counted with it
                instance.health.faulted(error.kind)
            # at the end everything is closed anyway, and nothing may be opened any more
            if page.lost is not None and not self._ended:
                await self._clear_away(instance, page)
            raise

    async def _clear_away(self, instance: BrowserInstance, page: RuntimePage) -> None:
        """Closes a lost page; where it hung and its browser opens no other, the browser too."""
        dropping = asyncio.ensure_future(instance.drop(page))
        # its browser is asked beside the closing, which takes its whole deadline where the browser is stopped
        if isinstance(page.lost, PageHung) and not await self._answers(instance, page):
            instance.health.pinged(None)
            instance.lose(page.lost)
            await asyncio.shield(self.running.retire(instance, f"hung: {page.lost.what}"))
        await asyncio.shield(dropping)

    async def _answers(self, instance: BrowserInstance, hung: RuntimePage) -> bool:
        """Whether a browser whose page hung still opens pages, and its GPU answers where the page used it: what is
        stopped does neither, and a new page there would hang as well."""
        try:
            async with asyncio.timeout(self.settings.ping_timeout):
                page = await instance.page(hung.kind)  # another may be open, which would prove nothing
                return not hung.uses_gpu or await page.finds_adapter()
        except (Fault, TimeoutError):
            return False

    async def _make_room(self, instance: BrowserInstance, page: RuntimePage, coming: int) -> None:
        """Lets sessions that nobody holds go, the least recently used first, until a model of ``coming`` bytes fits in:
        while it is loaded it is there twice. What tests hold stays, and may be more than fits."""
        while True:
            idle = [s for s in page.sessions.values() if not s.holders]
            full = sum(s.bytes for s in page.sessions.values()) + 2 * coming > PAGE_BYTES
            if not idle or (len(page.sessions) < SESSIONS_PER_PAGE and not full):
                return
            self._evicted += 1
            await self._release(page, min(idle, key=lambda s: s.last_used), instance)

    async def release(self, loaded: Loaded) -> None:
        """Lets a session go for real."""
        await self._release(loaded.page, loaded.session, loaded.instance)

    async def _release(self, page: RuntimePage, session: Session, instance: BrowserInstance) -> None:
        self._session_gone(instance, session)
        try:
            await page.release(session, RELEASE_SECONDS)
        except Fault:
            await instance.drop(page)

    # -- between tests ----------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Between tests: lets go of what is broken, worn out or too much. Cheap when nothing is due."""
        for instance in list(self.instances):
            if instance.leases:
                continue
            if not instance.usable:
                await self.running.retire(instance, str(instance.lost or "disconnected"))
                continue
            if (complaint := instance.complaint) is not None:
                await self.running.retire(instance, complaint)
                continue
            for page in list(instance.pages.values()):
                if page.lost is not None or page.loads >= self.settings.page_max_loads:
                    await instance.drop(page)
        await self.running.shrink()
        await self._bound_memory()

    async def _bound_memory(self) -> None:
        sizes = await asyncio.to_thread(lambda: {i.identity: i.process.memory() for i in self.instances})
        most = self.settings.page_max_memory_gib * (1 << 30)
        for instance in list(self.instances):
            size = sizes.get(instance.identity, 0)
            instance.health.measured(size)
            sessions = instance.sessions()
            sample = {
                "bytes": size,
                "busy_s": instance.busy_s,
                "sessions": len(sessions),
                "models": len({session.key.sha256 for session in sessions}),
            }
            self._emit("sample", {"instance": instance.identity, "browser": instance.name, **sample})
            if size > most and instance.too_large is None:
                self._evicted += 1
                instance.too_large = f"took {size / (1 << 30):.1f} GiB"
            # the next test may have it by now, in which case no later one gets it
            if instance.too_large is not None and not instance.leases:
                await self.running.retire(instance, instance.too_large)
                sizes[instance.identity] = 0
        idle = sorted((i for i in self.instances if not i.leases), key=lambda i: i.last_used)
        while idle and sum(sizes.values()) > self._memory_limit and len(self.instances) > 1:
            oldest = idle.pop(0)
            self._evicted += 1
            sizes[oldest.identity] = 0
            await self.running.retire(oldest, "memory of the node")


def _whereabouts(instance: BrowserInstance, key: SessionKey) -> dict[str, str]:
    return {
        "instance": instance.identity,
        "browser": instance.name,
        "backend": key.backend,
        "sha256": key.sha256,
    }
