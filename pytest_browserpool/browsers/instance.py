"""One browser of the pool: its process and its model pages, one page per bundle of onnxruntime-web and number of threads."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytest_browserpool.browsers.channel import PageChannel
from pytest_browserpool.browsers.health import Health
from pytest_browserpool.browsers.kinds import WHOLE, Builds, PageKind
from pytest_browserpool.browsers.launch import BrowserProcess, is_of_the_browser
from pytest_browserpool.browsers.page import RuntimePage, Session, SessionKey
from pytest_browserpool.browsers.serve import Server
from pytest_browserpool.errors import BrowserCrashed, Fault

_pages = itertools.count(1)

PAGE_OPEN_SECONDS = 30.0
"""A page with its bundle is there in 1 – 2 s; a loaded machine with several browsers starting takes ten."""


class BrowserInstance:
    """A running browser with its sessions. ``lost`` is set once it must not be used again."""

    node = ""
    """The node that lends it, where that is another one (``node.away``)."""

    def __init__(
        self,
        process: BrowserProcess,
        server: Server,
        channels: dict[str, PageChannel],
        builds: Builds,
        on_session_gone: Callable[[BrowserInstance, Session], None],
    ) -> None:
        self.process = process
        self.name = process.installed.name
        self.pages: dict[PageKind, RuntimePage] = {}
        self.lost: Fault | None = None
        self.health = Health()
        self.too_large: str | None = None
        """How much memory it once took, where that was too much."""
        self.most_windows: int | None = None
        """As ``Settings.firefox_max_windows``; None: any number."""
        self.last_used = time.monotonic()
        self.busy_s = 0.0
        """Seconds spent in commands: the numerator of the utilization."""
        self.leases = 0
        self.identity = process.token
        self.slot = 0
        """Which of several browsers of this name: a sharded model may need more than there are names."""
        self._server = server
        self._channels = channels
        self._builds = builds
        self._opening = asyncio.Lock()
        self._on_session_gone = on_session_gone

    def lose(self, fault: Fault) -> None:
        """The browser is gone, and its pages with it."""
        if self.lost is None:
            self.lost = fault
            self.health.faulted(fault.kind)
        for page in self.pages.values():
            page.lose(fault)

    def _page_lost(self, fault: Fault) -> None:
        """Counts once, though its pages go with a browser."""
        if self.lost is None:
            self.health.faulted(fault.kind)

    def ran(self, session: Session, began: float) -> None:
        """A warm run of ``session`` that began then has just gone well."""
        self.health.succeeded(session.name, (time.monotonic() - began) * 1000)

    @property
    def complaint(self) -> str | None:
        """Why it should be given to nobody any more, and nothing holds it; None while it is healthy or held."""
        return None if self.leases else self.too_large or self._worn or self.health.complaint

    @property
    def _worn(self) -> str | None:
        if self.most_windows is None or self.process.windows < self.most_windows:
            return None
        return f"opened {self.process.windows} windows"

    @property
    def usable(self) -> bool:
        return self.lost is None and self.process.connected

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a command of a test runs in it: it is not retired then, and its time counts."""
        began = self.begin()
        try:
            yield
        finally:
            self.end(began)

    def begin(self) -> float:
        """As entering ``in_use``, for a warm call, which a context manager would cost; returns what ``end`` wants."""
        self.leases += 1
        return time.monotonic()

    def end(self, began: float) -> None:
        """As leaving ``in_use``."""
        self.leases -= 1
        self.last_used = time.monotonic()
        self.busy_s += self.last_used - began

    def sessions(self) -> list[Session]:
        return [s for page in self.pages.values() if page.lost is None for s in page.sessions.values()]

    async def page(self, kind: PageKind = WHOLE) -> RuntimePage:
        """The page of this kind, opened or replaced where needed.

        Raises:
            Fault: it did not open; the browser is then lost too where it is at fault.
        """
        async with self._opening:
            kind = self._settled(kind)
            page = self.pages.get(kind)
            if page is not None and page.lost is None:
                return page
            if page is not None:
                await self.drop(page)
            if self.lost is not None:
                raise self.lost
            return await self._open(kind)

    def _settled(self, kind: PageKind) -> PageKind:
        """The page that is meant: what runs on wasm alone goes where onnxruntime-web is compiled already."""
        threads = kind.threads or self._builds.threads
        exact, whole = PageKind(kind.bundle, threads), PageKind("all", threads)
        if exact in self.pages:
            return exact
        if kind.bundle == "wasm" and whole in self.pages and self.pages[whole].lost is None:
            return whole
        return self._builds.of(kind)

    async def _open(self, kind: PageKind) -> RuntimePage:
        identity, threads = f"{next(_pages)}", kind.threads or self._builds.threads
        holder: list[RuntimePage] = []

        def on_event(event: Mapping[str, Any]) -> None:
            if holder:
                holder[0].on_event(event)

        channel = PageChannel(identity, on_event)
        self._channels[identity] = channel
        page = RuntimePage(channel, kind, self._server.offer)
        page.on_lost = self._page_lost
        holder.append(page)
        try:
            async with asyncio.timeout(PAGE_OPEN_SECONDS):
                url = self._server.page_url(identity, self.process.host, page.start(threads))
                page.bind(await self.process.open_model_page(url, page.lose, kind.bundle))
            await channel.ready(PAGE_OPEN_SECONDS)
            await page.configure(threads, PAGE_OPEN_SECONDS)
        except BaseException as error:
            await self._discard(page)
            if isinstance(error, Fault):
                raise
            if isinstance(error, Exception) and is_of_the_browser(error):  # it opens no pages any more
                said = str(error).strip().splitlines() or [f"no answer within {PAGE_OPEN_SECONDS:g} s"]
                self.lose(BrowserCrashed(f"{self.name} opens no page: {said[0]}"))
                raise self.lost from error  # type: ignore[misc]
            raise
        self.pages[kind] = page
        return page

    async def drop(self, page: RuntimePage) -> None:
        """Closes a page for good; its sessions are gone."""
        for session in page.sessions.values():
            self._on_session_gone(self, session)
        page.sessions.clear()
        if self.pages.get(page.kind) is page:
            del self.pages[page.kind]
        await self._discard(page)

    async def _discard(self, page: RuntimePage) -> None:
        self._channels.pop(page.channel.page_id, None)
        await page.close()

    def find(self, key: SessionKey) -> tuple[RuntimePage, Session] | None:
        """A warm session. From any thread."""
        for page in list(self.pages.values()):
            session = page.sessions.get(key)
            if page.lost is None and session is not None:
                return page, session
        return None

    async def close(self, *, kill: bool = False) -> None:
        """Ends the browser and everything in it."""
        for page in list(self.pages.values()):
            for session in page.sessions.values():
                self._on_session_gone(self, session)
            self._channels.pop(page.channel.page_id, None)
            page.channel.end()
        self.pages.clear()
        if kill or self.lost is not None:
            await self.process.kill()
        else:
            await self.process.close()
