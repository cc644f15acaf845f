"""What bounds an operation on a leased page, and that the browser is sound afterwards."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any

import chaos_support
import pytest
from acceptance_support import Runner
from bench_support import Bench
from playwright.async_api import TimeoutError as PlaywrightTimeout

from pytest_browserpool.errors import PageHung
from pytest_browserpool.node import lease as module
from pytest_browserpool.node.lease import leased

NEVER = "new Promise(() => {})"
ENDLESS = "while (true) {}"
LIMIT = 3.0
LATER = module.MARGIN_SECONDS + module.HUNG_SCREENSHOT_SECONDS + 6
"""The page's screenshot and end and a look at its browser, on a busy machine."""

both = pytest.mark.parametrize("kind", ["chromium", "firefox"])


@pytest.fixture(autouse=True)
def nothing_forgotten(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What was given up of Playwright's is not complained of afterwards, in the middle of somebody's output."""
    caplog.set_level(logging.ERROR, "asyncio")
    yield
    gc.collect()
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [record.getMessage() for record in records if record.name == "asyncio"] == []


def evaluated(bench: Bench, kind: str, script: str) -> None:
    with leased(bench.node, browsers=[f"={kind}"], timeout=LIMIT) as page:
        page.set_content("<p>before</p>")
        page.set_default_timeout(60_000)  # no method of Playwright's takes one for a script
        page.evaluate(script)


def stopped(bench: Bench, kind: str) -> None:
    with leased(bench.node, browsers=[f"={kind}"], timeout=LIMIT) as page:
        draws(page)
        assert chaos_support.send(bench, kind, "", signal.SIGSTOP)
        page.title()


def draws(page: Any) -> None:
    page.set_content("<p id=a>sound</p>")
    assert page.locator("#a").inner_text() == "sound"
    assert page.screenshot()


@pytest.mark.parametrize("script", [NEVER, ENDLESS])
def test_an_operation_ends_with_the_markers_timeout_and_the_browser_stays(
    bench: Bench, kind: str, script: str
) -> None:
    test = bench.node.test
    assert test is not None
    with leased(bench.node, browsers=[f"={kind}"]) as page:  # launches where it must
        draws(page)
    launches = bench.node.pool.launches
    started = time.monotonic()
    with pytest.raises(PageHung) as caught:
        evaluated(bench, kind, script)
    assert LIMIT <= time.monotonic() - started < LIMIT + LATER
    said = str(caught.value)
    assert f"Page.evaluate({script!r}) on a leased page did not end within 3 s" in said
    assert "raise timeout= in the test's model marker" in said
    assert kind in said
    assert any("Playwright's trace" in line for line in test.lease_console)
    assert (test.lease_screenshot is not None) == (script == NEVER)
    with leased(bench.node, browsers=[f"={kind}"], timeout=30) as page:
        draws(page)
    assert bench.node.pool.launches == launches
    assert all(i.leases == 0 for i in bench.node.pool.instances)


@both
def test_the_page_is_closed_at_once_and_says_so(bench: Bench, kind: str) -> None:
    with leased(bench.node, browsers=[kind], timeout=LIMIT) as page:
        with pytest.raises(PageHung, match=r"Page\.evaluate\('while"), page.expect_download():
            page.evaluate(ENDLESS)  # the expectation's own wait must not hide it
        started = time.monotonic()
        with pytest.raises(
            PageHung, match=r"Page\.title\(\): the leased page is closed since Page\.evaluate"
        ):
            page.title()
        assert time.monotonic() - started < 1
        assert page.is_closed()
        instance = next(i for i in bench.node.pool.instances if i.name == kind)
        assert instance.leases == 0


@both
def test_playwrights_own_timeout_ends_an_operation_earlier(bench: Bench, kind: str) -> None:
    with leased(bench.node, browsers=[kind], timeout=30) as page:
        with pytest.raises(PlaywrightTimeout, match="1000ms"):
            page.click("#nowhere", timeout=1000)
        page.set_default_timeout(1500)
        with pytest.raises(PlaywrightTimeout, match="1500ms"):
            page.click("#nowhere")
        draws(page)


@both
def test_playwrights_default_is_no_longer_than_the_markers_timeout(bench: Bench, kind: str) -> None:
    """What it waited for is said then; and the page, which is well, stays open."""
    with leased(bench.node, browsers=[kind], timeout=LIMIT) as page:
        with pytest.raises(PlaywrightTimeout, match=r"Timeout 3000ms exceeded(.|\n)*#nowhere"):
            page.click("#nowhere")
        draws(page)


@both
def test_the_markers_timeout_stands_above_a_longer_one_of_playwrights(bench: Bench, kind: str) -> None:
    started = time.monotonic()
    with (
        pytest.raises(PageHung, match="whatever timeout Playwright was given") as caught,
        leased(bench.node, browsers=[kind], timeout=LIMIT) as page,
    ):
        page.wait_for_selector("#nowhere", timeout=120_000)
    assert time.monotonic() - started < LIMIT + LATER
    assert "Page.wait_for_selector('#nowhere')" in str(caught.value)


@both
def test_a_browser_that_hangs_with_the_page_is_replaced(bench: Bench, kind: str) -> None:
    with leased(bench.node, browsers=[f"={kind}"]) as page:
        draws(page)
        launches = bench.node.pool.launches
    with pytest.raises(PageHung, match=r"Page\.title\(\) on a leased page did not end within 3 s"):
        stopped(bench, kind)
    assert kind not in [i.name for i in bench.node.pool.instances]
    with leased(bench.node, browsers=[f"={kind}"]) as page:
        draws(page)
    assert bench.node.pool.launches == launches + 1
    chaos_support.nothing_astray(bench)


@both
def test_a_page_that_hangs_costs_its_own_test_only(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The marker's timeout, as a user sees it; also where a fixture of the user's holds the page."""
    run = Runner(pytester, monkeypatch)
    run.suite(
        test_x=f"""
        import pytest

        @pytest.fixture
        def held(browser_pool):
            with browser_pool.lease(browsers=["{kind}"]) as page:
                page.set_content("<p>held</p>")
                yield page

        @pytest.mark.model(type="x", timeout=2)
        def test_never(browser_pool):
            with browser_pool.lease(browsers=["{kind}"]) as page:
                page.evaluate("new Promise(() => {{}})")

        @pytest.mark.model(type="x", timeout=2)
        def test_endless(held):
            held.evaluate("while (true) {{}}")

        def test_next(browser_pool, held):
            assert held.inner_text("p") == "held"
            assert browser_pool.stats()["launches"] == 1

        @pytest.mark.model(type="x", timeuot=2)
        def test_typo(browser_pool):
            browser_pool.lease(browsers=["{kind}"])
        """
    )
    reported = run(reports=False)
    assert reported.terminal["failed"] == 3
    assert reported.terminal["passed"] == 1
    assert (
        "PageHung: Page.evaluate('new Promise(() => {})') on a leased page did not end within 2 s"
        in reported.output
    )
    assert "PageHung: Page.evaluate('while (true) {}')" in reported.output
    assert "did you mean 'timeout'" in reported.output
    assert "never retrieved" not in reported.output + reported.result.stderr.str()
    assert "lease.py" not in reported.output  # our frames


def test_playwright_keeps_nothing_of_a_page_that_is_gone(
    fresh_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver collects call stacks for each trace that was begun until it is thrown away or written into a file; from
    the driver's memory that shows after hundreds of pages only, hence a look at what it is told."""
    from playwright._impl._local_utils import LocalUtils

    told: list[str] = []

    def watch(name: str) -> None:
        original = getattr(LocalUtils, name)

        async def watched(utils: Any, *given: Any) -> Any:
            told.append(name)
            return await original(utils, *given)

        monkeypatch.setattr(LocalUtils, name, watched)

    for name in ("tracing_started", "trace_discarded", "zip"):
        watch(name)
    bench = fresh_bench()
    with leased(bench.node, browsers=["=chromium"]) as page:
        draws(page)
    assert told == ["tracing_started", "trace_discarded"]
    with pytest.raises(PlaywrightTimeout), leased(bench.node, browsers=["=chromium"]) as page:
        page.click("#absent", timeout=10)
    assert told[2:] == ["tracing_started", "zip"]
