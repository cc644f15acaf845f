"""How soon a wrong belief is overcome with ``--browserpool-learn``, and what the exploration costs: simulated runs of
one model in two browsers, of which one is ``--factor`` times as fast.

Four beginnings: *right* (history says what is true), *swapped* (history has both browsers the wrong way round),
*one-sided* (only the slower browser was ever measured, and the belief about the model's type speaks for it) and
*none* (nothing but that belief). For each: tests until eight of ten in a row run in the faster browser, the share of
all tests that ran in the slower one, and the seconds lost to a scheduler that always knew; with and without learning.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

from pytest_browserpool.placement.history import History, Sample, Session
from pytest_browserpool.placement.policy import EngineConfig
from pytest_browserpool.simulation.ours import OurRun
from pytest_browserpool.simulation.workload import Workload, parse

SLOW, FAST = "chromium", "firefox"
"""As measured on software adapters: vision is believed to run best in Chrome, and Firefox was eight times as fast."""
SECONDS = 0.8
"""Of a warm test in the slower browser."""
LOADS = {SLOW: 4.0, FAST: 3.0}
IN_A_ROW, OF_THEM = 10, 8
BEGINNINGS = ("right", "swapped", "one-sided", "none")


def workload(tests: int, nodes: int, factor: float, noise: float) -> Workload:
    browsers = {
        SLOW: {"launch_s": 0.7, "backends": ["webgpu"]},
        FAST: {"launch_s": 3.0, "backends": ["webgpu"]},
    }
    value: dict[str, Any] = {
        "nodes": [{"id": f"n{i}", "memory_gib": 8, "browsers": browsers} for i in range(nodes)],
        "models": {
            "m": {
                "memory_gib": 0.5,
                "type": "vision",
                "load_s": {f"{b}/webgpu": s for b, s in LOADS.items()},
                "run_s": {f"{SLOW}/webgpu": SECONDS, f"{FAST}/webgpu": SECONDS / factor},
            }
        },
        "tests": [{"id": f"t{i:04}", "model": "m"} for i in range(tests)],
        "history": "cold",
        "noise_sigma": noise,
    }
    return parse(value, "learning")


def history(beginning: str, factor: float, count: int = 50) -> History | None:
    """What earlier runs are supposed to have measured."""
    slow: Session = (SLOW, "webgpu", "m")
    fast: Session = (FAST, "webgpu", "m")
    told = {
        "right": {slow: SECONDS, fast: SECONDS / factor},
        "swapped": {slow: SECONDS / factor, fast: SECONDS},
        "one-sided": {slow: SECONDS},
        "none": {},
    }[beginning]
    if not told:
        return None
    return History(
        runs={session: Sample(seconds, count) for session, seconds in told.items()},
        loads={session: Sample(LOADS[session[0]], count) for session in told},
        launches={SLOW: Sample(0.7, count), FAST: Sample(3.0, count)},
        scales={f"t{i:04}": Sample(1.0, count) for i in range(10_000)},
    )


def overcome(browsers: list[str]) -> int | None:
    """Number of tests before eight of ten in a row ran in the faster browser; None if that never came."""
    for i in range(len(browsers) - IN_A_ROW + 1):
        if sum(b == FAST for b in browsers[i : i + IN_A_ROW]) >= OF_THEM:
            return i
    return None


def one(
    beginning: str, *, learn: bool, seed: int, tests: int, nodes: int, factor: float, noise: float
) -> tuple[int | None, float, float]:
    """(tests until it was overcome, share in the slower browser, seconds lost)."""
    made = workload(tests, nodes, factor, noise)
    config = EngineConfig(expected_nodes=nodes, seed=seed, learn=learn)
    run = OurRun(made, seed, config=config, history=history(beginning, factor))
    run.run()
    order = [ran.browser for ran in sorted(run.truth.trace, key=lambda r: (r.start, r.node))]
    spent = sum(ran.end - ran.start for ran in run.truth.trace)
    best = sum(SECONDS / factor * run.truth.noise[ran.test] for ran in run.truth.trace)
    setups = nodes * (3.0 + LOADS[FAST])
    return overcome(order), order.count(SLOW) / len(order), spent - best - setups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--factor", type=float, default=8.0)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=30)
    arguments = parser.parse_args()
    print(
        f"{arguments.tests} tests, {arguments.nodes} nodes, {FAST} {arguments.factor:g} × as fast as {SLOW}, "
        f"noise {arguments.noise:g}, {arguments.seeds} seeds\n"
        f"{'history':10} {'learn':5} {'overcome after, median':>22} {'worst':>6} "
        f"{'never':>5} {'in the slower':>13} {'seconds lost':>12}"
    )
    for beginning in BEGINNINGS:
        for learn in (False, True):
            done = [
                one(
                    beginning,
                    learn=learn,
                    seed=seed,
                    tests=arguments.tests,
                    nodes=arguments.nodes,
                    factor=arguments.factor,
                    noise=arguments.noise,
                )
                for seed in range(arguments.seeds)
            ]
            found = [n if n is not None else math.inf for n, _, _ in done]
            print(
                f"{beginning:10} {'yes' if learn else 'no':5} {statistics.median(found):22.0f} "
                f"{max((f for f in found if f < math.inf), default=math.nan):6.0f} "
                f"{sum(f == math.inf for f in found):5} {statistics.fmean(s for _, s, _ in done):13.1%} "
                f"{statistics.fmean(lost for _, _, lost in done):12.1f}"
            )


if __name__ == "__main__":
    main()
