"""Peer 3: the best that a careful user does by hand. Pages and sessions are kept for each browser, the dead replaced."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from by_hand import launch, load, opened, run_and_check
from playwright.sync_api import Browser, Page, Playwright
from static import serving
from suite import Case, read

LAUNCHES, CASES = read()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


class Kept:
    """Browsers with one page each, and the sessions that are loaded in it."""

    def __init__(self, playwright: Playwright, address: str) -> None:
        self.playwright, self.address = playwright, address
        self.browsers: dict[str, Browser] = {}
        self.pages: dict[str, Page] = {}
        self.placements: dict[tuple[str, str, str], dict[str, int]] = {}

    def page(self, name: str) -> Page:
        if name not in self.browsers or not self.browsers[name].is_connected():
            self.browsers[name] = launch(self.playwright, LAUNCHES, name)
            self.pages.pop(name, None)
        if name not in self.pages or self.pages[name].is_closed():
            self.pages[name] = opened(self.browsers[name], self.address)
            self.placements = {key: value for key, value in self.placements.items() if key[0] != name}
        return self.pages[name]

    def close(self) -> None:
        for browser in self.browsers.values():
            browser.close()


@pytest.fixture(scope="session")
def kept(playwright: Playwright, address: str) -> Iterator[Kept]:
    kept = Kept(playwright, address)
    yield kept
    kept.close()


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.xdist_group(c.browser)) for c in CASES],
    ids=lambda case: case.id,
)
def test_it_agrees(case: Case, kept: Kept) -> None:
    page = kept.page(case.browser)
    key = (case.browser, case.model, case.backend)
    if key not in kept.placements:
        placement = load(page, case)
        assert placement is not None
        kept.placements[key] = placement
    run_and_check(page, case, kept.placements[key])
