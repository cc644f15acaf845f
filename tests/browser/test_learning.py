"""``--browserpool-learn`` on real browsers: a history that has two browsers the wrong way round is overcome."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import history_seed
from model_support import ANGLE, example

from pytest_browserpool.store.connect import reading

SLOW, FAST = ("chromium", "wasm"), ("headless-shell", "webnn")
"""The angle classifier of PP-OCR takes several times as long in the former (17 and 3.4 ms were measured)."""
PLANTED_MS = {"chromium/wasm": 2.0, "headless-shell/webnn": 60.0}

SUITE = """
import numpy as np
import pytest

@pytest.mark.model(
    "angle.onnx", id="sample", backends=["webnn", "wasm"], input_shapes={{"x": [1, 3, 48, 192]}}
)
@pytest.mark.parametrize("i", range({count}))
def test_angle(model, i):
    x = np.full((1, 3, 48, 192), i / {count}, np.float32)
    for _ in range(20):
        (found,) = model({{"x": x}}).values()
        assert found.sum() == pytest.approx(1, abs=1e-3)
"""


def where_they_ran(directory: Path, count: int, *options: str) -> list[tuple[str, str]]:
    """(browser, backend) of each test of a run in ``directory``, in the order they ran."""
    (directory / "angle.onnx").write_bytes(example(ANGLE).read_bytes())
    (directory / "test_angle.py").write_text(SUITE.format(count=count))
    db = directory / ".browserpool" / "history.duckdb"
    if not db.exists():
        chance = random.Random(1)
        history_seed.seed(db, [history_seed.run_rows(n, PLANTED_MS, chance=chance) for n in range(5)])
    command = [sys.executable, "-m", "pytest", "--browserpool", "-n1", "-p", "no:cacheprovider"]
    command += ["--browserpool-browsers=chromium,headless-shell", *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with reading(db) as con:
        return con.execute(
            """SELECT browser, backend FROM tests WHERE run_id = (SELECT run_id FROM runs ORDER BY started_at DESC LIMIT 1)
               ORDER BY started_at"""
        ).fetchall()


def test_a_wrong_history_is_overcome(tmp_path: Path) -> None:
    ran = where_they_ran(tmp_path, 20, "--browserpool-learn")
    assert len(ran) == 20
    assert ran[0] == SLOW, "it begins with what earlier runs say"
    assert ran[-6:].count(FAST) >= 5, ran
    assert ran.count(SLOW) <= 12, ran
