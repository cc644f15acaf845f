"""What each browser of this machine really gives: measured by a page, kept per browser version."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import anyio

from pytest_browserpool.artefacts import pins, runtime
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers.answers import FAULTED_SECONDS, keep, known
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.identity import fingerprint
from pytest_browserpool.browsers.instance import BrowserInstance
from pytest_browserpool.browsers.page import ANCHOR
from pytest_browserpool.browsers.pool import Pool
from pytest_browserpool.browsers.processes import Workdir
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import DeadlineExceeded, Fault, LaunchFailed
from pytest_browserpool.values import BACKENDS, Adapter, Backend, BackendSupport, BrowserCapabilities

FAILED = "probes-failed"
"""Kind in the cache: when a browser last gave no answer, and why."""

BACKEND_SECONDS = 30.0
"""Per backend. The slowest probe of all of them seen (Firefox's first WebGPU shader on a loaded machine) took 8 s."""

ORDER: tuple[Backend, ...] = ("wasm", *(b for b in BACKENDS if b != "wasm"))
"""Wasm first: a page that does not even run that is not asked for more."""


def probe_all(browsers: Iterable[InstalledBrowser], settings: Settings) -> list[BrowserCapabilities]:
    """What each of ``browsers`` gives, in order. A browser that does not start gives nothing, and says why.

    Processes of one machine ask each browser once: they wait for each other's answer.
    """
    cache = pins.default_cache()
    return [known(b, settings, cache) or _probe_locked(b, settings, cache) for b in browsers]


def probe_installed(installed: InstalledBrowser, settings: Settings) -> BrowserCapabilities:
    """What ``installed`` gives, measured once per version of the browser."""
    return probe_all([installed], settings)[0]


def _probe_locked(installed: InstalledBrowser, settings: Settings, cache: Cache) -> BrowserCapabilities:
    name, asked = fingerprint(installed, settings), time.time()
    with ExitStack() as turn:
        if cache.writable():  # where no answer can be kept there is none to wait for
            try:
                turn.enter_context(cache.lock(f"probe-{name}", timeout=_longest(settings)))
            except DeadlineExceeded as late:  # this browser's alone; the others are asked
                return _nothing(installed, late.what)
        return _asked(installed, settings, cache, name, asked)


def _asked(
    installed: InstalledBrowser, settings: Settings, cache: Cache, name: str, since: float
) -> BrowserCapabilities:
    """The answer that another process got ``since`` then, or a new one."""
    found = known(installed, settings, cache)
    if found is None:
        failed = cache.read_json(FAILED, name)
        if float(failed.get("at", 0.0)) >= since:
            return _nothing(installed, str(failed.get("detail", "")))
        try:
            found = anyio.run(_probe, installed, settings)
        except Fault as fault:
            detail = fault.what if isinstance(fault, LaunchFailed) else f"the probe ended with: {fault.what}"
            # for those that wait for it now: it may start tomorrow
            cache.write_json(FAILED, name, {"at": time.time(), "detail": detail})
            return _nothing(installed, detail)
        keep(found, installed, settings, cache)
    return found


def _longest(settings: Settings) -> float:
    """Seconds that a probe may take in which each backend hangs and has a browser of its own."""
    return (BACKEND_SECONDS + settings.launch_timeout) * len(ORDER)


def _nothing(installed: InstalledBrowser, detail: str) -> BrowserCapabilities:
    return BrowserCapabilities(
        name=installed.name,
        family=installed.family,
        version="",
        backends=tuple(BackendSupport(name=b, available=False, detail=detail) for b in BACKENDS),
    )


async def _probe(installed: InstalledBrowser, settings: Settings) -> BrowserCapabilities:
    workdir = Workdir()
    pool = Pool(
        settings,
        (installed,),
        runtime.directory_of(settings),
        workdir,
        threads=1,
        memory_limit=1 << 40,
        emit=lambda name, fields: None,
    )
    try:
        await pool.start()
        return await ask(pool, installed)
    finally:
        with anyio.CancelScope(shield=True):
            await pool.close()
        await anyio.to_thread.run_sync(workdir.close)


async def ask(pool: Pool, installed: InstalledBrowser) -> BrowserCapabilities:
    """Lets a page try each backend. One that hangs or crashes the browser has its own deadline and takes no other along.

    Raises:
        Fault: the browser does not start, or its page does not run wasm.
    """
    found, version, isolated = {}, "", False
    for backend in ORDER:
        instance = None
        try:
            instance, _ = await pool.browser(installed.name)
            version = version or instance.process.version
            values = await _try(pool, instance, backend)
        except Fault as fault:
            if backend == "wasm":
                raise
            detail = f"{fault.what}; asked again after {FAULTED_SECONDS / 3600:g} h"
            found[backend] = BackendSupport(name=backend, available=False, detail=detail, faulted=True)
            if instance is not None:  # what hung in it may hang the next one too
                await pool.running.retire(instance, fault.what)
        else:
            found[backend], isolated = _support(values["backend"]), bool(values["isolated"])
    return BrowserCapabilities(
        name=installed.name,
        family=installed.family,
        version=version,
        isolated=isolated,
        backends=tuple(found[b] for b in BACKENDS),
    )


async def _try(pool: Pool, instance: BrowserInstance, backend: Backend) -> Mapping[str, Any]:
    page = await instance.page()
    anchor = {"url": pool.offer("anchor.onnx", ANCHOR), "external": [], "options": {}}
    where = f"the probe of {instance.name}"
    args = {"anchor": anchor, "backend": backend}
    return (await page.call("probe", args, timeout=BACKEND_SECONDS, where=where)).values


def _support(plain: dict[str, Any]) -> BackendSupport:
    adapter = plain.get("adapter")
    return BackendSupport(
        name=plain["name"],
        available=bool(plain["available"]),
        detail=str(plain.get("detail", "")),
        adapter=Adapter.from_plain(adapter) if adapter else None,
    )
