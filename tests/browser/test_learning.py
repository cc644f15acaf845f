"""``--browserpool-learn`` on real browsers: a history that has two browsers the wrong way round is overcome."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import history_seed
from model_support import SILERO, example

from pytest_browserpool.store.connect import reading

SLOW, FAST = ("firefox", "webgpu"), ("chromium", "webgpu")
"""Silero VAD takes ten times as long in the former (500 and 50 ms a call were measured). One backend: their order is strict,
and nothing to learn."""
PLANTED_MS = {"firefox/webgpu": 2.0, "chromium/webgpu": 60.0}

SUITE = """
import numpy as np
import pytest

@pytest.mark.model("vad.onnx", id="sample", backends=["webgpu"])
@pytest.mark.parametrize("i", range({count}))
def test_silence(model, i):
    silence = {{"input": np.zeros((1, 576), np.float32), "state": np.zeros((2, 1, 128), np.float32)}}
    for _ in range(2):
        assert model(silence)["output"].item() < 0.1
"""


def where_they_ran(directory: Path, count: int, *options: str) -> list[tuple[str, str]]:
    """(browser, backend) of each test of a run in ``directory``, in the order they ran."""
    (directory / "vad.onnx").write_bytes(example(SILERO).read_bytes())
    (directory / "test_vad.py").write_text(SUITE.format(count=count))
    db = directory / ".browserpool" / "history.duckdb"
    if not db.exists():
        chance = random.Random(1)
        history_seed.seed(db, [history_seed.run_rows(n, PLANTED_MS, chance=chance) for n in range(5)])
    command = [sys.executable, "-m", "pytest", "--browserpool", "-n1", "-p", "no:cacheprovider"]
    command += ["--browserpool-browsers=chromium,firefox", *options]
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
