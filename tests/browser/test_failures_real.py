"""The taxonomy against real browsers: what Playwright says of killed processes must be classified right."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psutil
import pytest

from pytest_browserpool import errors
from pytest_browserpool.browsers.failures import classify, worst
from pytest_browserpool.browsers.symptoms import Observation, Origin, Phase

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM, FIREFOX = shutil.which("chromium"), shutil.which("firefox-esr")
needs = {
    "chromium": pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (apt install chromium)"),
    "firefox": pytest.mark.skipif(
        FIREFOX is None, reason="no firefox-esr on the PATH (apt install firefox-esr)"
    ),
}
BOTH = [pytest.param(name, marks=mark) for name, mark in needs.items()]
PATIENCE = 20.0
"""Seconds for any one wait: events were seen within 0.1 s on an idle machine."""
OTHERS: set[int] = set()
"""Processes from before the test's browser: those of the node that other files' tests share are none of ours."""


@contextlib.asynccontextmanager
async def browser_of(name: str) -> AsyncIterator[tuple[Any, list[Observation]]]:
    """A browser and the list of what was observed of it."""
    from playwright.async_api import async_playwright

    OTHERS.clear()
    OTHERS.update(process.pid for process in psutil.Process().children(recursive=True))
    async with async_playwright() as playwright:
        if name == "chromium":
            flags = [
                "--no-sandbox",
                "--enable-unsafe-webgpu",
                "--disable-quic",
                "--disable-background-networking",
            ]
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=60_000)
        else:
            browser = await playwright.firefox.launch(
                channel="moz-firefox", executable_path=FIREFOX, timeout=60_000
            )
        seen: list[Observation] = []
        browser.on(
            "disconnected", lambda _: seen.append(Observation(origin=Origin.EVENT, text="disconnected"))
        )
        try:
            yield browser, seen
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(browser.close(), PATIENCE)


async def text_of(call: Awaitable[object]) -> str:
    """What the failing ``call`` says."""
    try:
        await asyncio.wait_for(call, PATIENCE)
    except TimeoutError:
        pytest.fail("the call neither returned nor raised")
    except Exception as error:  # noqa: BLE001 - whatever Playwright raises is what this is about
        return str(error)
    return pytest.fail("the call did not fail")


def processes(mark: Callable[[list[str]], bool]) -> list[int]:
    """Ids of the test's own processes whose command line has ``mark``."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.pid not in OTHERS and mark(process.cmdline()):
                found.append(process.pid)
    return found


def main_process(name: str) -> list[int]:
    if name == "chromium":
        return processes(
            lambda c: any("remote-debugging" in x for x in c) and not any("--type=" in x for x in c)
        )[:1]
    return processes(lambda c: any("-profile" in x for x in c) and "-contentproc" not in c)[:1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the conditions are lists that callbacks fill
            await asyncio.sleep(0.02)


async def pending_call(page: Any) -> asyncio.Task[object]:
    task = asyncio.ensure_future(page.evaluate("new Promise(() => 0)"))
    await asyncio.sleep(0.3)
    return task


@pytest.mark.parametrize("name", BOTH)
def test_a_killed_browser(name: str) -> None:
    async def main() -> None:
        async with browser_of(name) as (browser, seen):
            page = await browser.new_page()
            call = await pending_call(page)
            (pid,) = main_process(name)
            os.kill(pid, signal.SIGKILL)
            seen.append(Observation(origin=Origin.PLAYWRIGHT, text=await text_of(call)))
            await until(lambda: any(one.text == "disconnected" for one in seen))
            found = worst(seen)
            assert found is not None
            assert found.fault is errors.BrowserCrashed
            again = await text_of(browser.new_page())
            assert (
                classify(Observation(origin=Origin.PLAYWRIGHT, text=again, phase=Phase.BROWSER))
                is errors.BrowserCrashed
            )

    asyncio.run(main())


@needs["chromium"]
def test_a_killed_renderer_in_chromium() -> None:
    async def main() -> None:
        async with browser_of("chromium") as (browser, seen):
            page = await browser.new_page()
            page.on("crash", lambda _: seen.append(Observation(origin=Origin.EVENT, text="crash")))
            call = await pending_call(page)
            for pid in processes(lambda c: "--type=renderer" in c):
                os.kill(pid, signal.SIGKILL)
            text = await text_of(call)
            assert classify(Observation(origin=Origin.PLAYWRIGHT, text=text)) is errors.PageCrashed, text
            await until(lambda: bool(seen))
            assert {classify(one) for one in seen} == {errors.PageCrashed}
            assert await (await browser.new_page()).evaluate("1 + 1") == 2, (
                "a new page works: reload is enough"
            )

    asyncio.run(main())


@needs["firefox"]
def test_a_killed_content_process_in_firefox_costs_the_browser() -> None:
    async def main() -> None:
        async with browser_of("firefox") as (browser, seen):
            page = await browser.new_page()
            page.on("close", lambda _: seen.append(Observation(origin=Origin.EVENT, text="close")))
            call = await pending_call(page)
            for pid in processes(lambda c: "-contentproc" in c and c[-1] == "tab"):
                os.kill(pid, signal.SIGKILL)
            text = await text_of(call)
            assert classify(Observation(origin=Origin.PLAYWRIGHT, text=text)) is errors.PageCrashed, text
            assert browser.is_connected(), "it still says so"
            again = await text_of(browser.new_page())
            assert (
                classify(Observation(origin=Origin.PLAYWRIGHT, text=again, phase=Phase.BROWSER))
                is errors.BrowserCrashed
            )

    asyncio.run(main())


@pytest.fixture
def secure_page() -> Iterator[str]:
    """An empty page from the loopback, which browsers take for a secure context."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>x</title>")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(PATIENCE)
    server.server_close()


@needs["chromium"]
def test_a_killed_gpu_process_loses_the_device(secure_page: str) -> None:
    async def main() -> None:
        async with browser_of("chromium") as (browser, _):
            page = await browser.new_page()
            await page.goto(secure_page)
            start = """async () => {
              const device = await (await navigator.gpu.requestAdapter()).requestDevice();
              window.lost = device.lost.then(info => info.reason + " " + info.message);
            }"""
            await asyncio.wait_for(page.evaluate(start), PATIENCE)
            for pid in processes(lambda c: "--type=gpu-process" in c):
                os.kill(pid, signal.SIGKILL)
            reason = await asyncio.wait_for(page.evaluate("window.lost"), PATIENCE)
            assert classify(Observation(origin=Origin.DEVICE, text=reason)) is errors.DeviceLost
            # what our own end of a device looks like is told apart by who caused it, not by its words
            assert classify(Observation(origin=Origin.DEVICE, text=reason, expected=True)) is None

    asyncio.run(main())


OUT_OF_MEMORY = (
    "new ArrayBuffer(2 ** 52)",
    "new Float32Array(2 ** 40)",
    "new WebAssembly.Memory({initial: 65536, maximum: 65536}) && [1, 2, 3, 4, 5, 6, 7, 8, 9]"
    ".map(() => new ArrayBuffer(2 ** 44))",
)
ITS_OWN = ("nothing.at.all", "(() => { throw new Error('the answer is wrong') })()", "await )")


@pytest.fixture(scope="module", params=BOTH)
def said(request: pytest.FixtureRequest) -> dict[str, str]:
    """What one page of the browser says of each of these scripts."""

    async def main() -> dict[str, str]:
        async with browser_of(request.param) as (browser, _):
            page = await browser.new_page()
            return {code: await text_of(page.evaluate(code)) for code in (*OUT_OF_MEMORY, *ITS_OWN)}

    return asyncio.run(main())


@pytest.mark.parametrize("code", OUT_OF_MEMORY)
def test_what_running_out_of_memory_says(said: dict[str, str], code: str) -> None:
    assert classify(Observation(origin=Origin.RUNTIME, text=said[code])) is errors.OutOfMemory, said[code]


@pytest.mark.parametrize("code", ITS_OWN)
def test_an_error_of_the_page_itself_is_not_a_fault(said: dict[str, str], code: str) -> None:
    for origin in (Origin.PLAYWRIGHT, Origin.RUNTIME):
        assert classify(Observation(origin=origin, text=said[code])) is None, said[code]


@pytest.mark.parametrize("executable", ["/nowhere/chromium", "/etc/hostname"])
def test_an_executable_that_is_none_is_the_users_to_mend(executable: str) -> None:
    async def main() -> None:
        from playwright.async_api import async_playwright

        async with async_playwright() as playwright:
            text = await text_of(playwright.chromium.launch(executable_path=executable, timeout=60_000))
            assert classify(Observation(origin=Origin.PLAYWRIGHT, text=text, phase=Phase.LAUNCH)) is None, (
                text
            )

    asyncio.run(main())


@needs["chromium"]
def test_a_browser_that_ends_at_once_is_a_failed_launch(tmp_path: Any) -> None:
    async def main() -> None:
        from playwright.async_api import async_playwright

        script = tmp_path / "chromium"
        script.write_text("#!/bin/sh\nexit 1\n")
        script.chmod(0o755)
        async with async_playwright() as playwright:
            text = await text_of(playwright.chromium.launch(executable_path=script, timeout=60_000))
            found = classify(Observation(origin=Origin.PLAYWRIGHT, text=text, phase=Phase.LAUNCH))
            assert found is errors.LaunchFailed, text

    asyncio.run(main())
