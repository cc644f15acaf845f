"""The scheduler beside xdist's own, on the zoo: ``python benchmarks/scheduler.py [--seeds N] [--scale]``.

Everything is simulated on a virtual clock with the real engine and xdist's real classes; docs/scheduling.md
defines each figure. All schedulers run in one process on the same workloads, noise and seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from offline import reference

from pytest_browserpool.simulation import zoo
from pytest_browserpool.simulation.figures import figures, simulate
from pytest_browserpool.simulation.ours import OurRun
from pytest_browserpool.simulation.workload import Workload

VARIANTS = {
    "warm": ("warm", 0.0),
    "warm, noise 0.3": ("warm", 0.3),
    "cold": ("cold", 0.0),
    "cold, noise 0.3": ("cold", 0.3),
}
"""History and sigma of the noise. ``bad_estimates`` keeps its own noise and runs where there is some."""
MATCHED = 1.1
"""A test is matched in a browser than which no other that it may use on that node is more than 10 % faster."""
OURS, PEERS = "browserpool", ("load", "worksteal")


@dataclasses.dataclass
class Row:
    """One workload, seed and variant."""

    name: str
    seed: int
    bound: float
    reference: float | None
    makespan: dict[str, float]
    claims: dict[str, dict[str, float]]
    decision_us: dict[str, dict[str, float]]
    planning_s: float
    failed: dict[str, int]


class Kept:
    """Rows and references that were measured before, appended to a file as they come: a long run can be done in
    pieces, and one that was broken off loses nothing. They are those of the code that measured them."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        self.rows: dict[tuple[str, str, int], Row] = {}
        self.references: dict[tuple[str, int, float], float | None] = {}
        self.peers: dict[tuple[str, int, float], dict[str, Any]] = {}
        for line in self.path.read_text().splitlines() if self.path and self.path.exists() else ():
            value = json.loads(line)
            if "row" in value:
                row = Row(**value["row"])
                self.rows[value["variant"], row.name, row.seed] = row
            else:
                self.references[tuple(value["of"])] = value["reference"]

    def append(self, value: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(value) + "\n")

    def row(self, variant: str, name: str, seed: int) -> Row:
        """Measured now, unless it was before."""
        found = self.rows.get((variant, name, seed))
        if found is None:
            found = self.rows[variant, name, seed] = measure(name, seed, *VARIANTS[variant], self)
            self.append({"variant": variant, "row": dataclasses.asdict(found)})
        return found

    def reference(self, workload: Workload, key: tuple[str, int, float]) -> float | None:
        if key not in self.references:
            self.references[key] = reference(workload, key[1])
            self.append({"of": key, "reference": self.references[key]})
        return self.references[key]

    def beside(self, workload: Workload, key: tuple[str, int, float]) -> dict[str, Any]:
        """xdist's schedulers on the same workload; history is nothing to them."""
        if key not in self.peers:
            self.peers[key] = simulate(workload, PEERS, key[1], spare=True)["schedulers"]
        return self.peers[key]


def measure(name: str, seed: int, history: str, sigma: float, kept: Kept) -> Row:
    base = zoo.workload(name, seed)
    sigma = base.noise_sigma if base.noise_sigma and sigma else sigma
    workload = dataclasses.replace(base, history=history, noise_sigma=sigma)
    key = (name, seed, sigma)
    peers = kept.beside(workload, key)
    bound = next(iter(peers.values()))["lower_bound"]
    run = OurRun(workload, seed)
    run.run()
    results = {OURS: figures(workload, run, bound), **peers}
    best = kept.reference(workload, key)
    if best is not None and not results[OURS]["failed"]:
        # what was done online could have been done offline
        best = kept.references[key] = min(best, results[OURS]["makespan"])
    return Row(
        name=name,
        seed=seed,
        bound=bound,
        reference=best,
        makespan={k: r["makespan"] for k, r in results.items()},
        claims={k: claims(workload, r) for k, r in results.items()},
        decision_us={k: r["decision_us"] for k, r in results.items()},
        planning_s=results[OURS]["planning_s"],
        failed={k: len(r["failed"]) for k, r in results.items()},
    )


def claims(workload: Workload, result: dict[str, Any]) -> dict[str, float]:
    """The figures behind the claims, as docs/scheduling.md defines them."""
    trace = result["trace"]
    nodes = {n.id: n for n in workload.nodes}
    tests = {t.id: t for t in workload.tests}
    run = sum(r["end"] - r["start"] - r["setup"] for r in trace)
    places = sum(len(n.browsers) for n in workload.nodes)
    matched = 0
    for row in trace:
        test = tests[row["test"]]
        seconds = workload.models[test.model].run_s
        best = min(seconds[pair] for pair in workload.options(test, nodes[row["node"]]))
        matched += row["setup"] <= 1e-9 and seconds[row["browser"], row["backend"]] <= MATCHED * best
    return {
        "load spread": result["load_spread"],
        "browser utilization": run / (result["makespan"] * places) if trace else 0.0,
        "needless migrations": float(result["migrations"] - result["useful_migrations"]),
        "matching": matched / len(trace) if trace else 0.0,
        "warm tests": sum(r["setup"] <= 1e-9 for r in trace) / len(trace) if trace else 0.0,
        "peak load": result["peak_load"],
    }


def geometric(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


def worst(values: Iterable[float], share: float = 0.05) -> float:
    """The value that the worst ``share`` of the cases reach or exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * (1 - share)))] if ordered else math.nan


def show(title: str, rows: list[Row]) -> None:
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row.name].append(row)
    print(f"\n{title}")
    print(
        f"  {'workload':15} {'/bound':>7} {'/ref':>6} {'worst':>6} {'load/ours':>9} {'steal/ours':>10} "
        f"{'better/ours':>11} {'least':>6} {'failed':>9}"
    )
    for name, group in by_name.items():
        refs = [r.makespan[OURS] / r.reference for r in group if r.reference]
        gains = [min(r.makespan[p] for p in PEERS) / r.makespan[OURS] for r in group]
        load, steal = (geometric(r.makespan[p] / r.makespan[OURS] for r in group) for p in PEERS)
        failed = "/".join(str(sum(r.failed[k] for r in group)) for k in (OURS, *PEERS))
        print(
            f"  {name:15} {geometric(r.makespan[OURS] / r.bound for r in group):7.3f} {geometric(refs):6.3f} "
            f"{worst(refs):6.3f} {load:9.2f} {steal:10.2f} {geometric(gains):11.2f} {min(gains):6.2f} {failed:>9}"
        )
    refs = [r.makespan[OURS] / r.reference for r in rows if r.reference]
    print(
        f"  all: geometric mean to the reference {geometric(refs):.3f}, worst 5 % {worst(refs):.3f}, "
        f"to the bound {geometric(r.makespan[OURS] / r.bound for r in rows):.3f}"
    )
    us = [r.decision_us[OURS] for r in rows]
    print(
        f"  decisions: median of p50 {statistics.median(u['p50'] for u in us):.0f} µs, of p99 "
        f"{statistics.median(u['p99'] for u in us):.0f} µs; planning "
        f"{statistics.fmean(r.planning_s for r in rows):.2f} s a run"
    )


GOALS = {
    "load spread": ("lower", 0.30),
    "browser utilization": ("higher", 0.20),
    "needless migrations": ("lower", 0.40),
    "matching": ("higher", 0.35),
    "peak load": ("lower", 0.20),
}
"""Claim → (direction, share) against worksteal."""


def show_claims(title: str, rows: list[Row]) -> None:
    print(f"\nclaims against worksteal, {title} (means over workloads and seeds)")
    for claim, (direction, goal) in GOALS.items():
        ours = statistics.fmean(r.claims[OURS][claim] for r in rows)
        theirs = statistics.fmean(r.claims["worksteal"][claim] for r in rows)
        change = (ours / theirs - 1) if theirs else math.nan
        reached = change <= -goal if direction == "lower" else change >= goal
        print(
            f"  {claim:20} {ours:9.3f} beside {theirs:9.3f}: {change:+7.1%}, goal {goal:.0%} {direction}: "
            f"{'reached' if reached else 'NOT reached'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--only", default="", help="workloads, separated by commas")
    parser.add_argument("--variant", default="", help="one of the variants")
    parser.add_argument(
        "--scale", action="store_true", help="cost of decisions as tests and nodes grow, instead"
    )
    parser.add_argument("--smallest", type=int, default=0, help="with --scale: fewest tests")
    parser.add_argument(
        "--limit",
        type=float,
        default=math.inf,
        help="with --scale: seconds for each size, then what ran counts",
    )
    parser.add_argument("--largest", type=int, default=100_000, help="with --scale: most tests")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--keep", metavar="FILE", help="append what is measured there, and take from there what was"
    )
    arguments = parser.parse_args()
    if arguments.scale:
        import scale

        scale.main(arguments.smallest, arguments.largest, arguments.limit)
        return
    began = time.perf_counter()
    kept = Kept(arguments.keep)
    for title, (_, sigma) in VARIANTS.items():
        if arguments.variant and title != arguments.variant:
            continue
        names = arguments.only.split(",") if arguments.only else list(zoo.ZOO)
        rows = [
            kept.row(title, name, seed)
            for name in names
            if sigma or name != "bad_estimates"
            for seed in range(arguments.first, arguments.first + arguments.seeds)
        ]
        show(f"{title}: {len(rows)} runs", rows)
        show_claims(title, rows)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
