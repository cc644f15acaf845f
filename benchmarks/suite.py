"""The example suite on real browsers under our scheduler and under xdist's own two: ``make bench-suite``.

``--browserpool-scheduler=on`` against ``off`` with ``--dist load`` and with ``--dist worksteal``: the same pools, models and
number of nodes. The three take turns, each round in another order, each with a history of its own. A first run of ours,
which fills its history and the file caches of all, is not counted: xdist's schedulers learn nothing. Wall time is that of
the whole command; processor time is that of all its processes; launches and loads (sessions made, those ahead of their
tests included) come from the history.

``--into DIRECTORY`` keeps what was measured, and a later call goes on from there: ``--rounds`` more each time.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_browserpool.store import connect, queries

OURS = "ours"
WAYS = {
    OURS: ("--browserpool-scheduler=on",),
    "xdist load": ("--browserpool-scheduler=off", "--dist=load"),
    "xdist worksteal": ("--browserpool-scheduler=off", "--dist=worksteal"),
}
FIGURES = {"wall_s": "wall, s", "cpu_s": "processor, s", "launches": "launches", "loads": "loads"}
RUN_SECONDS = 600.0
"""Deadline of one run: it takes one minute on two slow cores."""
PR_SET_CHILD_SUBREAPER = 36
"""From Linux's prctl.h."""


@dataclass(frozen=True)
class Measured:
    """One run of the suite. ``counted`` is False for the run that only warms up."""

    way: str
    round: int
    counted: bool
    wall_s: float
    cpu_s: float
    launches: int
    loads: int
    passed: int
    skipped: int


def main() -> None:
    options = _arguments()
    with _directory(options.into) as directory:
        log = directory / "runs.jsonl"
        done = [Measured(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
        first = max((run.round for run in done), default=-1) + 1
        _adopt_orphans()
        for number in range(first, first + options.rounds + (first == 0)):
            ways = list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]
            for way in ways if number else [OURS]:
                run = _run(way, number, directory, options)
                print(f"round {number}: {way}: {run.wall_s:.1f} s", file=sys.stderr, flush=True)
                done.append(run)
                with log.open("a") as file:
                    file.write(json.dumps(asdict(run)) + "\n")
        _report([run for run in done if run.counted], options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs of each way (default %(default)s); 0 only prints"
    )
    parser.add_argument("--into", type=Path, help="where to keep histories and figures (default: nowhere)")
    parser.add_argument("--suite", default="example_suite", help="tests to run (default %(default)s)")
    parser.add_argument("--marks", default="not slow", help="pytest's -m (default %(default)r)")
    parser.add_argument("--nodes", default="auto", help="xdist's -n (default %(default)s)")
    return parser.parse_args()


@contextlib.contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="bench-suite-") as made:
        yield Path(made)


def _adopt_orphans() -> None:
    """Processes whose parent ends before them become ours, so that their processor time is counted too."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    """Wait for what was adopted: a browser's last process ends within moments of its run."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.05)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(way: str, number: int, directory: Path, options: argparse.Namespace) -> Measured:
    name = way.replace(" ", "-")
    db, output = directory / f"{name}.duckdb", directory / f"{name}-{number}.txt"
    command = [
        sys.executable, "-m", "pytest", "--browserpool", f"--numprocesses={options.nodes}", *WAYS[way], options.suite,
        "-m", options.marks, "-q", "-p", "no:cacheprovider", f"--browserpool-db={db}",
    ]  # fmt: skip
    # an installation has compiled modules; pytest compiles a plugin's anew at each start where it may not keep them
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, started = _cpu_seconds(), time.perf_counter()
    with output.open("wb") as file:
        status = subprocess.run(
            command, env=environment, stdout=file, stderr=file, timeout=RUN_SECONDS, check=False
        ).returncode
    wall = time.perf_counter() - started
    _reap()
    if status != 0:
        raise SystemExit(f"{way}: pytest ended with {status}; a slower pass cannot be compared with a failure:\n"
                         + output.read_text(errors="replace")[-3000:])  # fmt: skip
    with connect.reading(db) as con:
        (row,) = queries.latest_runs(con, 1)
    return Measured(
        way=way,
        round=number,
        counted=number > 0,
        wall_s=wall,
        cpu_s=_cpu_seconds() - before,
        launches=row["launches"],
        loads=row["loads"],
        passed=row["passed"],
        skipped=row["skipped"],
    )


def _report(runs: list[Measured], options: argparse.Namespace) -> None:
    if not runs:
        raise SystemExit("nothing was measured yet")
    by_round = {(run.way, run.round): run for run in runs}
    rounds = sorted({run.round for run in runs if all((way, run.round) in by_round for way in WAYS)})
    outcomes = sorted({(run.passed, run.skipped) for run in runs})
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {options.suite}, -n {options.nodes}, {len(rounds)} rounds")
    print(f"(passed, skipped or xfailed): {outcomes}\n")
    print(f"| | {' | '.join(FIGURES.values())} | wall ÷ ours | processor ÷ ours |")
    print("|---" * (len(FIGURES) + 3) + "|")
    for way in WAYS:
        of_way = [by_round[way, number] for number in rounds]
        cells = [_spread([float(getattr(run, figure)) for run in of_way]) for figure in FIGURES]
        for figure in ("wall_s", "cpu_s"):
            ratios = [getattr(by_round[way, n], figure) / getattr(by_round[OURS, n], figure) for n in rounds]
            cells.append("" if way == OURS else _ratio(ratios))
        print(f"| {way} | {' | '.join(cells)} |")


def _spread(values: list[float]) -> str:
    """Median, least and greatest."""
    digits = 0 if all(value == int(value) for value in values) else 1
    if min(values) == max(values):
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def _ratio(values: list[float]) -> str:
    """Geometric mean of the rounds' own ratios, least and greatest."""
    return f"{statistics.geometric_mean(values):.2f} ({min(values):.2f} – {max(values):.2f})"


if __name__ == "__main__":
    main()
