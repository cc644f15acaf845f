"""A long run of mixed work until LOAD_SECONDS are over: warm and new models, leased pages, pages that are lost.

Tests that come after the time are skipped at once, so that the run has an end and one outcome for each test.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights import WIDTH, weights

from pytest_browserpool.errors import BrowserPoolError

DIRECTORY = Path(os.environ["LOAD_DIRECTORY"])
UNTIL = float(os.environ["LOAD_UNTIL"])
MODELS = int(os.environ["LOAD_MODELS"])
BROWSERS = ("chromium", "firefox", "headless-shell")
TESTS = int(os.environ["LOAD_TESTS"])


@pytest.fixture(autouse=True)
def in_time() -> None:
    if time.time() > UNTIL:
        pytest.skip("the time is over")


def needs(number: int) -> dict[str, Any]:
    # eight models are asked for again and again, the others come and go
    chosen = number % 8 if number % 3 else number % MODELS
    return {"source": str(DIRECTORY / f"{chosen}.onnx"), "browsers": [BROWSERS[number % len(BROWSERS)]]}


def multiplies(model: Any, path: str) -> None:
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
    wanted = x @ weights(int(Path(path).stem))
    np.testing.assert_allclose(model({"x": x})["y"], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", range(TESTS))
@pytest.mark.model(browsers=BROWSERS)
def test_mixed(browser_pool: Any, number: int) -> None:
    asked = needs(number)
    model = browser_pool.load(asked["source"], browsers=asked["browsers"], backends=["wasm"])
    for _ in range(5):
        multiplies(model, asked["source"])
    if number % 10 == 3:
        with browser_pool.lease(browsers=asked["browsers"]) as page:
            page.set_content(f"<p>{number}</p>")
            assert page.text_content("p") == str(number)
    if number % 50 == 7:  # bad input costs a test its answer, and no browser
        with pytest.raises(BrowserPoolError):
            model({"x": np.zeros((1, 3), np.float32)})
    if number % 50 == 9:
        model.reload()
        multiplies(model, asked["source"])
