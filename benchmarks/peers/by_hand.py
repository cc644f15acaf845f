"""What a user of pytest-playwright writes by hand: browsers by name, and calls into a page."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, Playwright
from suite import Case, arrays, check, record

Launches = Mapping[str, Any]


def launch(playwright: Playwright, launches: Launches, name: str) -> Browser:
    how = launches[name]
    args = [
        *how["args"],
        *(os.environ.get("PEERS_SWITCHES", "").split() if how["engine"] == "chromium" else ()),
    ]
    options = {"executable_path": how["executable"], "channel": how["channel"], "args": args}
    if how["prefs"]:
        options["firefox_user_prefs"] = how["prefs"]
    started = time.perf_counter()
    browser: Browser = getattr(playwright, how["engine"]).launch(**options)
    record("launch", browser=name, ms=(time.perf_counter() - started) * 1000)
    return browser


def opened(browser: Browser, address: str) -> Page:
    page = browser.new_page()
    page.goto(f"{address}/page/index.html")
    page.wait_for_function("window.bench !== undefined")
    return page


def load(page: Page, case: Case) -> dict[str, int] | None:
    """The session of this case in the page; None where the page has it already, else its placement."""
    name = f"{case.model} {case.backend}"
    started = time.perf_counter()
    placement: dict[str, int] | None = page.evaluate(
        "([name, model, backend]) => window.bench.load(name, model, backend)",
        [name, f"/models/{case.model}", case.backend],
    )
    if placement is not None:
        record("load", browser=case.browser, ms=(time.perf_counter() - started) * 1000)
    return placement


def run_and_check(page: Page, case: Case, placement: Mapping[str, int]) -> None:
    inputs = arrays(case.inputs)
    started = time.perf_counter()
    sent = {
        name: {"type": a.dtype.name, "dims": list(a.shape), "data": base64.b64encode(a.tobytes()).decode()}
        for name, a in inputs.items()
    }
    reply = page.evaluate(
        "([name, inputs]) => window.bench.run(name, inputs)", [f"{case.model} {case.backend}", sent]
    )
    outputs = {
        name: np.frombuffer(base64.b64decode(t["data"]), t["type"]).reshape(t["dims"])
        for name, t in reply["outputs"].items()
    }
    seconds = time.perf_counter() - started
    record("call", ms=seconds * 1000, page_ms=reply["ms"])
    check(case, outputs, placement)
