"""What a scheduler loses by not knowing: makespan over the offline reference, as history tells more or less.

The same engine, told nothing, or only the mean run times, or everything but them, and so on. *All but the lengths of
tests* is the best that a scheduler without clairvoyance of single tests can hope for; *all but run times* shows what
finding the fastest browser costs where everything else is known.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scheduler import Kept, geometric

from pytest_browserpool.placement.history import History
from pytest_browserpool.simulation import zoo
from pytest_browserpool.simulation.ours import OurRun, known

ALL = ("runs", "scales", "loads", "node_launches", "speeds")
SETUPS = ("loads", "node_launches")
KNOWLEDGE: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "set-ups": SETUPS,
    "speeds": ("speeds",),
    "lengths": ("scales",),
    "run times": ("runs",),
    "no lengths": tuple(f for f in ALL if f != "scales"),
    "no run times": tuple(f for f in ALL if f != "runs"),
    "all": ALL,
}
"""Column → the fields of the history that the engine is told."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="workloads, separated by commas")
    parser.add_argument(
        "--keep", metavar="FILE", help="references are appended there, and taken from there where they are"
    )
    arguments = parser.parse_args()
    kept = Kept(arguments.keep)
    print(f"{'workload':14}" + "".join(f"{name:>13}" for name in KNOWLEDGE), flush=True)
    ratios: dict[str, list[float]] = {name: [] for name in KNOWLEDGE}
    names = arguments.only.split(",") if arguments.only else list(zoo.ZOO)
    for name in names:
        if zoo.workload(name, 0).events or name == "bad_estimates":
            continue  # no reference; noise of its own
        row: dict[str, list[float]] = {knowledge: [] for knowledge in KNOWLEDGE}
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            workload = dataclasses.replace(zoo.workload(name, seed), noise_sigma=0.0)
            best = kept.reference(workload, (name, seed, 0.0))
            assert best is not None
            for knowledge, fields in KNOWLEDGE.items():
                told = History(**{field: getattr(known(workload), field) for field in fields})
                run = OurRun(dataclasses.replace(workload, history="cold"), seed, history=told)
                run.run()
                row[knowledge].append(max(ran.end for ran in run.truth.trace) / best)
        for knowledge, values in row.items():
            ratios[knowledge] += values
        print(f"{name:14}" + "".join(f"{geometric(row[k]):13.3f}" for k in KNOWLEDGE), flush=True)
    print(f"{'geometric mean':14}" + "".join(f"{geometric(ratios[k]):13.3f}" for k in KNOWLEDGE))
    assert all(math.isfinite(value) for values in ratios.values() for value in values)


if __name__ == "__main__":
    main()
