"""What recording a run costs: the processor time of everything that records, over the wall time of the example suite.

Usage: python benchmarks/recording.py [--runs 3] [--suite example_suite] [-n 2]

Two runs of one suite differ by several per cent for reasons of their own, a hundred times what is looked for: so not
two runs are compared, but the recorder's own time is summed within each, thread by thread (``time.thread_time``): rows
made on the nodes, rows taken in and written on the controller. All of it together over the wall time is the share,
as if no core were ever idle: an upper bound of what recording adds. The first run makes the history, the others add to it:
both are told, and the median is over all. What the scheduler reads of the history is no recording. Goal: 1 %.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "BROWSERPOOL_BENCH_RECORDING"
"""The directory in which each process of the run leaves its sums."""

spent: dict[str, float] = defaultdict(float)
inside = threading.local()


def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its processor time added to ``part``; calls within calls count once."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if getattr(inside, "busy", False):
            return function(*args, **kwargs)
        inside.busy, started = True, time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            inside.busy = False
            spent[part] += time.thread_time() - started

    return wrapper


def watch(cls: type, part: str, *names: str) -> None:
    for name in names:
        setattr(cls, name, timed(part, getattr(cls, name)))


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin of the measured run, in each of its processes."""
    if VARIABLE not in os.environ:
        return
    from pytest_browserpool.ledger import Ledger
    from pytest_browserpool.node.reporting import Reporter
    from pytest_browserpool.observer import Observer
    from pytest_browserpool.store.writer import HistoryWriter

    watch(
        Reporter, "nodes: rows made and sent", "row", "flush", "operation", "fault", "segment_load", "metric"
    )
    watch(Ledger, "controller: rows taken in", "row", "report", "decision", "beat", "journal", "node_up")
    watch(Observer, "controller: what the scheduler sees", "_queue", "_drain", "end")
    watch(HistoryWriter, "controller: writing", "_flush")


def pytest_unconfigure(config: pytest.Config) -> None:
    if VARIABLE in os.environ and spent:
        path = Path(os.environ[VARIABLE]) / f"{os.getpid()}.json"
        path.write_text(json.dumps(spent), encoding="utf-8")


def measure(suite: str, nodes: int, history: Path) -> tuple[float, dict[str, float]]:
    """Wall seconds of one run that is recorded in ``history``, and the recorder's processor seconds by part, over all
    processes."""
    with tempfile.TemporaryDirectory() as directory:
        here = str(Path(__file__).parent)
        environment = os.environ | {
            VARIABLE: directory,
            "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "pytest", "--browserpool", "-n", str(nodes), "-p", "recording", "-q"]
        command += [
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            f"--browserpool-db={history}",
            suite,
        ]
        started = time.perf_counter()
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        wall = time.perf_counter() - started
        if done.returncode not in (0, 1):
            sys.exit(f"the suite did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        parts: dict[str, float] = defaultdict(float)
        for path in Path(directory).glob("*.json"):
            for part, seconds in json.loads(path.read_text(encoding="utf-8")).items():
                parts[part] += seconds
        return wall, parts


def show(number: int, wall: float, parts: dict[str, float]) -> None:
    total = sum(parts.values())
    kind = "it adds to the history" if number else "it makes the history"
    print(f"run {number + 1}, {kind}: {wall:.1f} s wall, recorder {total:.3f} s: {total / wall:.2%}")
    for part, seconds in sorted(parts.items()):
        print(f"    {part:<40} {seconds:8.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--suite", default="example_suite")
    parser.add_argument("-n", type=int, default=2, dest="nodes")
    given = parser.parse_args()
    shares = []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(given.runs):
            wall, parts = measure(given.suite, given.nodes, Path(directory) / "h.duckdb")
            shares.append(sum(parts.values()) / wall)
            show(number, wall, parts)
    print(
        f"recording, median of {len(shares)} runs: {sorted(shares)[len(shares) // 2]:.2%} of wall time   goal 1 %"
    )


if __name__ == "__main__":
    main()
