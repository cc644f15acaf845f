"""What a reader is told of a test that no node can run."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_browserpool.errors import CapabilityError
from pytest_browserpool.unrunnable import in_a_line, in_full, insisted, no_node
from pytest_browserpool.values import BackendSupport, BrowserCapabilities, ModelNeeds

FEWER = "lower min_memory=, or start fewer nodes on that machine: they share its memory"
DOCTOR = "browserpool doctor says what is missing; --browserpool-missing=skip skips such tests"


def test_one_reason_is_said_once_for_all_nodes() -> None:
    error = no_node([f"gw{i}: no webkit (has chromium, firefox)" for i in range(3)])
    assert isinstance(error, CapabilityError)
    assert in_full(error).splitlines() == [
        "NoNode: no node can run this test: no webkit (has chromium, firefox)",
        "  where: gw0, gw1, gw2",
        f"  remedy: {DOCTOR}",
    ]
    assert in_a_line(error) == "no node can run this test: no webkit (has chromium, firefox) (gw0, gw1, gw2)"


def test_different_reasons_have_a_line_each() -> None:
    reasons = [
        "gw0: no edge (has chromium)",
        "gw1: firefox (webnn: navigator.ml is missing)",
        "gw2: no edge (has chromium)",
    ]
    error = no_node(reasons, ["none of firefox is here\n  remedy: apt-get install firefox-esr"])
    assert in_full(error).splitlines() == [
        "NoNode: no node can run this test",
        "  none of firefox is here",
        "    remedy: apt-get install firefox-esr",
        "  where: ",
        "    gw0, gw2: no edge (has chromium)",
        "    gw1: firefox (webnn: navigator.ml is missing)",
        f"  remedy: {DOCTOR}",
    ]
    assert "\n" not in in_a_line(error)


@pytest.mark.parametrize(
    ("reasons", "remedy"),
    [
        (["gw0: lost", "gw1: lost"], "see above why the nodes were lost"),
        (["gw0: lost", "gw1: no webkit (has firefox)"], DOCTOR),
        (["gw0: needs 900 GiB, node has 9.4"], FEWER),
        (["no node came up"], "see above why no node came up"),
    ],
)  # fmt: skip
def test_the_remedy_fits(reasons: list[str], remedy: str) -> None:
    assert no_node(reasons).remedy == remedy


SOUND = BrowserCapabilities(
    name="chromium", family="chrome", version="1", backends=(BackendSupport(name="wasm", available=True),)
)
BROKEN = BrowserCapabilities(
    name="firefox", family="firefox", version="", backends=(BackendSupport(name="wasm", available=False),)
)
BROKEN_TOO = dataclasses.replace(BROKEN, name="chromium-gpu", family="chrome")


@pytest.mark.parametrize(
    ("chosen", "browsers", "fails"),
    [
        ((), ("firefox",), False),
        (("firefox",), ("firefox",), True),
        (("firefox",), ("=firefox",), True),
        (("firefox",), (), True),
        (("firefox",), ("webkit",), False),
        (("chromium", "firefox"), ("chromium",), False),
        (("chrome",), ("chrome",), False),
        (("edge",), ("edge", "firefox"), True),
        (("edge",), ("chrome",), False),
        (("chromium-gpu",), ("chrome",), True),
        (("chromium-gpu",), ("=chromium",), False),
        (("nightly",), ("firefox",), False),
    ],
)
def test_a_run_insists_on_the_browsers_that_it_names(
    chosen: tuple[str, ...], browsers: tuple[str, ...], fails: bool
) -> None:
    """``fails``: where it would be skipped otherwise; two browsers are here and do not start."""
    assert insisted(ModelNeeds(browsers=browsers), chosen, [SOUND, BROKEN, BROKEN_TOO]) is fails
