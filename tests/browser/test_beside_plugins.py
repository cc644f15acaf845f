"""Real models beside the other plugins that people have: nobody's page, loop, limit or rerun gets in another's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx_models as make
import pytest

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    return {**browser_type_launch_args, "executable_path": "/usr/bin/chromium", "args": ["--no-sandbox"]}
"""
HEAD = """
import asyncio, time
import numpy as np
import pytest

pytestmark = pytest.mark.model("affine.onnx", backends=["wasm"], browsers=["chromium"])
X = {"x": np.zeros((4, 4), np.float32)}
"""
PLAYWRIGHT = """
def test_their_page_and_our_model(model, page):
    page.set_content("<h1>hi</h1>")
    assert model(X)["y"].item(0) == 1
    assert page.locator("h1").inner_text() == "hi"
    assert model(X)["y"].item(0) == 1
"""
OTHERS = """
runs = 0

@pytest.mark.asyncio
async def test_in_their_loop(model):
    await asyncio.sleep(0.01)
    assert model(X)["y"].item(0) == 1

@pytest.mark.flaky(reruns=2)
def test_reruns(model):
    global runs
    runs += 1
    assert model(X)["y"].item(0) == 1
    assert runs == 2

@pytest.mark.timeout(3)
def test_their_limit(model):
    time.sleep(30)

def test_goes_on(model):
    assert model(X)["y"].item(0) == 1
    assert model.warm
"""


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "worker"])
@pytest.mark.parametrize(
    ("tests", "outcome"),
    [(PLAYWRIGHT, "1 passed"), (OTHERS, "1 failed, 3 passed")],
    ids=["playwright", "others"],
)
def test_together(tmp_path: Path, workers: tuple[str, ...], tests: str, outcome: str) -> None:
    (tmp_path / "affine.onnx").write_bytes(make.affine())
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(HEAD + tests)
    command = [sys.executable, "-m", "pytest", "--browserpool", "-q", "-p", "no:cacheprovider", *workers]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert outcome in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert ("Timeout" in done.stdout) == ("failed" in outcome)
