"""Peers 1 and 2: pytest-playwright as its documentation shows it. A browser for the session, a page for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from by_hand import launch, load, opened, run_and_check
from playwright.sync_api import Browser, Playwright
from static import serving
from suite import Case, read

LAUNCHES, CASES = read()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="session")
def browser_named(playwright: Playwright) -> Iterator[Callable[[str], Browser]]:
    """As pytest-playwright's own ``browser``, which knows one executable for each engine: here are two Chromiums."""
    browsers: dict[str, Browser] = {}

    def named(name: str) -> Browser:
        if name not in browsers:
            browsers[name] = launch(playwright, LAUNCHES, name)
        return browsers[name]

    yield named
    for browser in browsers.values():
        browser.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_it_agrees(case: Case, browser_named: Callable[[str], Browser], address: str) -> None:
    page = opened(browser_named(case.browser), address)
    try:
        placement = load(page, case)
        assert placement is not None
        run_and_check(page, case, placement)
    finally:
        page.close()
