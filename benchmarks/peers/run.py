"""The same suite by four peers and by this project, in alternating rounds: ``make bench-peers``.

Each run is measured over its whole process tree and appended to a file, so that rounds may be done in pieces
(``--minutes``) and the tables are made from all of them. ``--kill`` also runs the suite once per peer with one
browser killed in the middle; ``--limit`` measures the unavoidable work alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import limit  # noqa: E402
import measure  # noqa: E402
import runners  # noqa: E402
from kill import Killer  # noqa: E402
from prepare import prepare  # noqa: E402

from pytest_browserpool.artefacts.cache import cache_root  # noqa: E402

Row = dict[str, Any]
GOALS = (("load", 4.0), ("worksteal", 4.0), ("playwright", 4.0), ("loadgroup", 1.6))
"""How many times faster than each peer the warm run should be."""


def one(peer: str, suite: Path, tests: int, seed: int, history: Path, kill: bool) -> Row:
    """One run of one peer."""
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        work = Path(name)
        if peer == "cold":
            history = work / "history.duckdb"
        command, env, cwd = runners.start(peer, suite, work, seed, history, cache_root())
        killer = Killer(work / "record.jsonl", tests // 2) if kill else None
        if killer is not None:
            killer.start()
        measured = measure.run(command, env, cwd, runners.LIMIT_SECONDS)
        if killer is not None:
            killer.enough.set()
            killer.join()
        passed = runners.passed(peer, work / "result")
        row = {
            "peer": peer,
            "seed": seed,
            "kill": kill,
            "tests": tests,
            "passed": passed,
            "seconds": measured.seconds,
            "cpu_seconds": measured.cpu_seconds,
            "peak_mib": measured.peak_mib,
            "processes": measured.processes,
            "left_behind": measured.left_behind,
            "load": os.getloadavg()[0],
            "at": time.time(),
            **runners.counted(work / "record.jsonl"),
        }
        if killer is not None:
            row["killed"] = killer.killed[0] if killer.killed else None
        elif passed != tests:
            sys.exit(f"{peer}: {passed} of {tests} passed\n{measured.output[-6000:]}")
    return row


def orders(rounds: int, peers: list[str]) -> list[tuple[int, str]]:
    """(round, peer): another one begins each round."""
    return [
        (number, peer)
        for number in range(rounds)
        for peer in peers[number % len(peers) :] + peers[: number % len(peers)]
    ]


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def of(rows: list[Row], peer: str, what: str) -> list[float]:
    return [row[what] for row in rows if row["peer"] == peer]


def table(rows: list[Row], peers: list[str]) -> None:
    print(
        "\n| peer | wall, s | CPU, s | peak memory, MiB | launches | loads | ms per call beyond `session.run` |"
    )
    print("|---|---|---|---|---|---|---|")
    for peer in (p for p in peers if of(rows, p, "seconds")):
        print(
            f"| {runners.TITLES[peer]} | {spread(of(rows, peer, 'seconds'))} | {spread(of(rows, peer, 'cpu_seconds'))} "
            f"| {spread(of(rows, peer, 'peak_mib'), 0)} | {spread(of(rows, peer, 'launches'), 0)} "
            f"| {spread(of(rows, peer, 'loads'), 0)} | {spread(of(rows, peer, 'overhead_ms'))} |"
        )


def ratios(rows: list[Row]) -> None:
    """Pair by pair: both runs of a pair belong to one round."""
    print()
    seconds = {(row["seed"], row["peer"]): row["seconds"] for row in rows}
    for ours in ("warm", "cold"):
        for peer in ("load", "worksteal", "loadgroup", "told", "playwright"):
            pairs = [
                s / seconds[seed, ours]
                for (seed, p), s in seconds.items()
                if p == peer and (seed, ours) in seconds
            ]
            if pairs:
                goal = dict(GOALS).get(peer) if ours == "warm" else {"loadgroup": 1.0}.get(peer)
                said = f", goal {goal:g}" if goal else ""
                print(f"{runners.TITLES[peer]} takes {spread(pairs, 2)} × as long as {ours}{said}")


def killed(rows: list[Row], peers: list[str]) -> None:
    print("\nOne browser killed as the test after the first half begins:\n")
    print("| peer | browser | tests lost | wall, s |\n|---|---|---|---|")
    for row in sorted(rows, key=lambda r: peers.index(r["peer"])):
        lost = row["tests"] - row["passed"]
        print(
            f"| {runners.TITLES[row['peer']]} | {row['killed']} | {lost} of {row['tests']} | {row['seconds']:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(runners.PEERS), help="which, in this order")
    parser.add_argument("--kill", type=int, metavar="N", default=1, help="rounds with a killed browser (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, help="append to this file and go on where it ends")
    parser.add_argument("--minutes", type=float, help="begin no run after so many; call again to go on")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    options = parser.parse_args()
    peers = options.peers.split(",")
    directory = cache_root() / "peers"
    suite = prepare(directory / "suite")
    results = options.results or Path(tempfile.mkdtemp(prefix="peers-results-")) / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    measure.adopt_orphans()
    until = time.monotonic() + (options.minutes or 1e6) * 60
    complete = measured(options, peers, directory / "suite", suite, results, until)
    rows = read(results)
    print(
        f"\n{len(suite['tests'])} tests, {len({t['model'] for t in suite['tests']})} model files; {machine()}"
    )
    table([r for r in rows if "peer" in r and not r["kill"]], peers)
    ratios([r for r in rows if "peer" in r and not r["kill"]])
    if deaths := [r for r in rows if r.get("kill")]:
        killed(deaths, peers)
    if limits := [r for r in rows if "limit" in r]:
        limit.show(limits[-1]["limit"], [r for r in rows if r.get("peer") == "warm" and not r["kill"]])
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "runs": rows}, indent=1))
    if not complete:
        print(f"\nnot complete: call again with --results {results}")


def measured(
    options: argparse.Namespace,
    peers: list[str],
    directory: Path,
    suite: dict[str, Any],
    results: Path,
    until: float,
) -> bool:
    """Every run that ``results`` does not have yet; False where the time was up before."""
    history = results.parent / "warm-history.duckdb"
    tests = len(suite["tests"])
    have = {(r["seed"], r["peer"], r["kill"]) for r in read(results) if "peer" in r}
    if "warm" in peers and not history.exists():
        one(
            "warm", directory, tests, options.seed, history, False
        )  # its first run learns, and is not counted
    planned = [(number, peer, False) for number, peer in orders(options.rounds, peers)]
    planned += [(number, peer, True) for number, peer in orders(options.kill, peers)]
    for number, peer, kill in planned:
        seed = options.seed + number
        if (seed, peer, kill) in have:
            continue
        if time.monotonic() > until:
            return False
        # a killed browser's run must not teach the ones that are measured
        own = results.parent / "killed-history.duckdb"
        if kill and history.exists():
            shutil.copyfile(history, own)
        row = one(peer, directory, tests, seed, own if kill else history, kill)
        append(results, row)
        print(
            f"round {number + 1}, {runners.TITLES[peer]}{', killed ' + str(row['killed']) if kill else ''}: "
            f"{row['seconds']:.1f} s, CPU {row['cpu_seconds']:.1f} s, {row['peak_mib']:.0f} MiB, "
            f"{row['launches']} launches, {row['loads']} loads, {row['passed']} of {tests} passed, load {row['load']:.1f}",
            flush=True,
        )
    if not any("limit" in r for r in read(results)):
        if time.monotonic() > until:
            return False
        append(results, {"limit": limit.measure(suite, directory)})
    return True


def append(results: Path, row: Row) -> None:
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read(results: Path) -> list[Row]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def machine() -> str:
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


if __name__ == "__main__":
    main()
