"""Scale by load, on real browsers: ``make bench-scale``.

``overhead``: what a short test costs beyond bare xdist. ``models``: 500 models of 1 MB through a pool of two browsers.
``nodes``: eight nodes on this machine. ``long``: mixed work for ``--minutes``, with the slopes of memory, handles and
processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "peers"), str(HERE / "load_suites")]

import measure  # noqa: E402
import runners  # noqa: E402
from prepare import prepare  # noqa: E402
from weights import write  # noqa: E402

from pytest_browserpool.artefacts.cache import cache_root  # noqa: E402

SUITES = HERE / "load_suites"
LEVEL_SECONDS = {"models": 1.5, "long": 5.0, "kept": 0.5}
"""Between readings of the level: each takes about 10 ms of a core for every process, and the models take half a minute."""
ROLES = ("pytest", "nodes", "drivers", "browsers")
"""The controller, xdist's workers, Playwright's servers, and the browsers with what watches over them."""
PYTHON = ROLES[:2]
KINDS = {"firefox": "Firefox", "headless_shell": "headless shell", "chromium": "Chromium"}
"""How the browsers of the suites are told apart: part of the executable's name, the first that fits."""
LIMIT_SECONDS = 3 * 3600.0
A_SECOND = 25
"""Tests of the long run: more than two nodes manage here (21). Each left over when its time is over is skipped."""
CLOSING = 0.8
"""Of the usual number of processes: with fewer, the run is ending."""
WARM_UP = 0.4
"""The first part of a run, while pools and caches fill, says nothing of a level."""


class Levels(threading.Thread):
    """Memory, handles and processes of our descendants, read until stopped."""

    def __init__(self, part: str) -> None:
        super().__init__(daemon=True)
        self.seconds = LEVEL_SECONDS[part]
        self.began = time.monotonic()
        self.readings: list[dict[str, float]] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.wait(self.seconds):
            # what has ended and is not buried yet counts no more
            pids = [pid for pid in measure.tree(os.getpid()) if _state(pid) not in "ZX"]
            memory = dict.fromkeys((*ROLES, *KINDS.values()), 0.0)
            for pid in pids:
                mib = measure.proportional_bytes([pid]) / (1 << 20)
                memory[_role(pid)] += mib
                if kind := _kind(pid):
                    memory[kind] += mib
            self.readings.append(
                {
                    "at": time.monotonic() - self.began,
                    "memory MiB": sum(memory[role] for role in ROLES),
                    **{f"of it {role}": mib for role, mib in memory.items()},
                    "handles": sum(map(_handles, pids)),
                    "processes": len(pids),
                }
            )

    def stop(self) -> list[dict[str, float]]:
        self.enough.set()
        self.join()
        return self.readings


def _state(pid: int) -> str:
    """The letter of ``ps``: Z has ended; X is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X"
    return stat[stat.rindex(")") + 2]


def _role(pid: int) -> str:
    """Whose memory that is."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = [""]
    if "python" not in Path(words[0]).name:
        return "drivers" if "run-driver" in words else "browsers"
    if "pytest" in words:
        return "pytest"
    return "nodes" if any("exec(eval(" in word for word in words) else "browsers"


def _kind(pid: int) -> str | None:
    """Which browser's process it is."""
    try:
        name = Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return None
    return next((kind for part, kind in KINDS.items() if part in name), None)


def _handles(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def trend(readings: list[dict[str, float]], what: str) -> tuple[float, float, float]:
    """Median level of the first and last fifth after the warm-up, and the change over that time by least squares."""
    # the last readings see the browsers being closed
    usual = statistics.median(r["processes"] for r in readings) if readings else 0
    while readings and readings[-1]["processes"] < CLOSING * usual:
        readings = readings[:-1]
    kept = readings[int(len(readings) * WARM_UP) :]
    if len(kept) < 5:
        return float("nan"), float("nan"), float("nan")
    fifth = max(1, len(kept) // 5)
    first = statistics.median(r[what] for r in kept[:fifth])
    last = statistics.median(r[what] for r in kept[-fifth:])
    found = statistics.linear_regression([r["at"] for r in kept], [r[what] for r in kept])
    return first, last, found.slope * (kept[-1]["at"] - kept[0]["at"])


def suite(name: str, *arguments: str, failing: bool = False, **environment: Any) -> measure.Measured:
    """Runs one of the suites to its end; anything but success stops the benchmark, unless ``failing`` is allowed."""
    others = (
        "html",
        "metadata",
        "timeout",
        "asyncio",
        "rerunfailures",
        "hypothesispytest",
        "anyio",
        "playwright",
    )
    dropped = [f"-pno:{n}" for n in (others if "-pno:browserpool" in arguments else others[2:])]
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(SUITES / "pytest.ini"), f"--rootdir={SUITES}"]
    env = {**os.environ, **{f"LOAD_{key}": str(value) for key, value in environment.items()}}
    done = measure.run([*command, *dropped, *arguments, str(SUITES / name)], env, SUITES, LIMIT_SECONDS)
    if done.code != 0 and not failing:
        sys.exit(f"{name} {' '.join(arguments)}: exit {done.code}\n{done.output[-5000:]}")
    return done


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a test, as the slope between a few and many: starting up is on its own."""
    few, many = 100, options.tests
    with tempfile.TemporaryDirectory() as work:
        pool = ("--browserpool", f"--browserpool-db={work}/history.duckdb")
        ways: dict[str, tuple[str, tuple[str, ...]]] = {
            "bare xdist, load": ("test_short.py", ("-n2", "-pno:browserpool")),
            "bare xdist, worksteal": ("test_short.py", ("-n2", "-pno:browserpool", "--dist", "worksteal")),
            "browserpool, no model": ("test_short.py", ("-n2", *pool)),
            "browserpool, a tiny warm model": ("test_tiny_model.py", ("-n2", *pool)),
        }
        suite(
            "test_tiny_model.py", "-n2", *pool, TESTS=few
        )  # fills the probe cache and the history; not counted
        seen: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, (name, arguments) in ways.items():
                short = suite(name, *arguments, TESTS=few).seconds
                long = suite(name, *arguments, TESTS=many)
                per_test = (long.seconds - short) / (many - few) * 1000
                seen[way].append((per_test, short, long.seconds))
                print(f"  {way}: {few} tests {short:.1f} s, {many} tests {long.seconds:.1f} s", flush=True)
    print(
        f"\n| {many} short tests, 2 nodes | ms a test | beyond bare xdist | {few} tests, s |\n|---|---|---|---|"
    )
    bare = statistics.median(p for p, *_ in seen["bare xdist, load"])
    for way, found in seen.items():
        ms = statistics.median(p for p, *_ in found)
        start = statistics.median(s for _, s, _ in found)
        print(f"| {way} | {ms:.2f} | {ms - bare:+.2f} | {start:.1f} |")
    print("goal: no more than 3 ms beyond bare xdist")
    return dict(seen)


def models(options: argparse.Namespace) -> dict[str, Any]:
    """Memory while many models come and go."""
    with tempfile.TemporaryDirectory() as work:
        write(Path(work) / "models", options.models)
        levels = Levels("models")
        levels.start()
        done = suite(
            "test_many_models.py",
            "--browserpool",
            "--browserpool-max-browsers=2",
            f"--browserpool-db={work}/history.duckdb",
            TESTS=options.models,
            DIRECTORY=f"{work}/models",
        )
        readings = levels.stop()
    print(
        f"\n{options.models} models of 1 MB, a pool of 2 browsers: {done.seconds:.0f} s, peak {done.peak_mib:.0f} MiB"
    )
    levels_of(readings)
    return {"seconds": done.seconds, "peak_mib": done.peak_mib, "readings": readings}


def levels_of(readings: list[dict[str, float]]) -> None:
    print("\n| level | at 40 % of the run | at its end | slope over that time |\n|---|---|---|---|")
    for what in (key for key in readings[0] if key != "at"):
        first, last, change = trend(readings, what)
        print(f"| {what} | {first:.0f} | {last:.0f} | {change:+.0f} |")


def nodes(options: argparse.Namespace) -> dict[str, Any]:
    """The suite of the peers over two nodes and over eight."""
    directory = cache_root() / "peers" / "suite"
    tests = len(prepare(directory)["tests"])
    found = {}
    for count in (2, options.nodes):
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            command, env, cwd = runners.start("warm", directory, work, 1, work / "h.duckdb", cache_root())
            command[command.index("-n") + 1] = str(count)
            done = measure.run(command, env, cwd, LIMIT_SECONDS)
            passed = runners.passed("warm", work / "result")
            counts = runners.counted(work / "record.jsonl")
        found[count] = {"seconds": done.seconds, "peak_mib": done.peak_mib, "passed": passed, **counts}
        print(
            f"{count} nodes: {passed} of {tests} passed, {done.seconds:.0f} s, peak {done.peak_mib:.0f} MiB, "
            f"{done.processes} processes, {counts['launches']} launches, {counts['loads']} loads, "
            f"{done.left_behind} left behind",
            flush=True,
        )
        if passed != tests:
            sys.exit(done.output[-5000:])
    return found


def long(options: argparse.Namespace) -> dict[str, Any]:
    """Mixed work for so many minutes over two nodes."""
    with tempfile.TemporaryDirectory() as work:
        write(Path(work) / "models", 60)
        levels = Levels("long")
        levels.start()
        done = suite(
            "test_mixed.py",
            "-n2",
            "--browserpool",
            f"--browserpool-db={work}/history.duckdb",
            TESTS=int(options.minutes * 60 * A_SECOND),
            failing=True,
            DIRECTORY=f"{work}/models",
            MODELS=60,
            UNTIL=time.time() + options.minutes * 60,
        )
        readings = [r for r in levels.stop() if r["at"] < options.minutes * 60]
    last = done.output.strip().splitlines()[-1]
    print(
        f"\nmixed work, {options.minutes:g} minutes, 2 nodes: {last}; {done.left_behind} processes left behind"
    )
    levels_of(readings)
    if done.code != 0:
        sys.exit(f"exit {done.code}\n{done.output[-20000:]}")
    if done.left_behind:
        sys.exit(f"{done.left_behind} processes were left behind")
    ran = int(last.split(" passed")[0].split()[-1]) * (1 - WARM_UP)
    print("\n| MiB for each 1,000 tests, in the controller and its nodes | |\n|---|---|")
    ours = sum(trend(readings, f"of it {role}")[2] for role in PYTHON)
    print(f"| this run, {ran:.0f} tests | {ours / ran * 1000:.1f} |")
    print(f"| bare xdist, that keeps three reports for each test too | {kept_by_pytest():.1f} |")
    return {"seconds": done.seconds, "said": last, "readings": readings}


def kept_by_pytest() -> float:
    """MiB that bare xdist grows by with each 1,000 tests that pass, on two nodes."""
    tests = 40_000
    levels = Levels("kept")
    levels.start()
    suite("test_short.py", "-n2", "-pno:browserpool", TESTS=tests)
    readings = levels.stop()
    change = sum(trend(readings, f"of it {role}")[2] for role in PYTHON)
    return change / (tests * (1 - WARM_UP)) * 1000


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "overhead": overhead,
    "models": models,
    "nodes": nodes,
    "long": long,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)} (all)")
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3, help="of overhead")
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=120.0, help="of the long run; 20 are CI's full form")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    measure.adopt_orphans()
    found = {}
    for part in options.parts or PARTS:
        found[part] = PARTS[part](options)
    print(
        f"\nPython {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    if options.json:
        with contextlib.closing(options.json.open("w")) as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
