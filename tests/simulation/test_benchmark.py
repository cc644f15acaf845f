"""The scheduler's benchmark runs, and what it prints says who was compared on what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "scheduler.py"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quality() -> None:
    output = run("--seeds", "1", "--only", "one_huge", "--variant", "warm")
    assert "one_huge" in output
    assert "geometric mean to the reference 1.0" in output
    assert "matching" in output


def test_scale() -> None:
    output = run("--scale", "--largest", "1000")
    assert "1000      8" in output
    assert "xdist worksteal" in output
