"""What the first run of a WebGPU model costs on a software adapter, with this project's switch and without: ``make
bench-first-runs``.

The models of the peers' suite that run on WebGPU in a Chromium, each in a browser that has just started, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from prepare import prepare  # noqa: E402

from pytest_browserpool.artefacts.cache import cache_root  # noqa: E402
from pytest_browserpool.browsers import flags  # noqa: E402
from pytest_browserpool.config import Settings  # noqa: E402
from pytest_browserpool.fixtures import Model  # noqa: E402
from pytest_browserpool.node.node import Node  # noqa: E402
from pytest_browserpool.values import ModelNeeds  # noqa: E402

WAYS = {"zeroed by SwiftShader": (), "zeroed by the shader": flags.SOFTWARE_FLAGS}


def processor_seconds() -> float:
    """Of all processes below this one so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def first_and_second(node: Node, test: dict[str, Any], directory: Path) -> dict[str, float]:
    """Seconds of a model's first and second call in a browser of its own, and the processor's for the first."""

    def arrays(tensors: dict[str, Any]) -> dict[str, Any]:
        return {
            n: np.fromfile(directory / t["file"], t["type"]).reshape(t["dims"]) for n, t in tensors.items()
        }

    needs = ModelNeeds(browsers=(f"={test['browser']}",), backends=("webgpu",), timeout=120)
    node.begin_test("bench")
    model = Model(node, node.load(needs, str(directory / "models" / test["model"]), None))
    times, processor = [], processor_seconds()
    for number in range(2):
        started = time.perf_counter()
        outputs = model(arrays(test["inputs"]))
        times.append(time.perf_counter() - started)
        if number == 0:
            processor = processor_seconds() - processor
        for name, wanted in arrays(test["expected"]).items():
            np.testing.assert_allclose(outputs[name], wanted, rtol=test["rtol"], atol=test["atol"])
    node.end_test()
    return {"first": times[0], "second": times[1], "processor": processor}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    directory = cache_root() / "peers" / "suite"
    suite = prepare(directory)
    chromiums = [name for name, how in suite["browsers"].items() if how["engine"] == "chromium"]
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for test in suite["tests"]:
        if test["backend"] == "webgpu" and test["browser"] in chromiums:
            cases.setdefault((test["model"], test["browser"]), test)
    if not cases:
        sys.exit("no Chromium here runs a model of the suite on WebGPU: nothing was measured")
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for round_ in range(options.rounds):
        for case, test in cases.items():
            for way in sorted(WAYS, reverse=bool(round_ % 2)):
                flags.SOFTWARE_FLAGS = WAYS[way]
                node = Node(Settings(rootdir=str(Path.cwd()), db=""), "bench", lambda message: None)
                with contextlib.closing(node):
                    found.setdefault((*case, way), []).append(first_and_second(node, test, directory))
    print(f"{options.rounds} rounds in turns, {os.cpu_count()} cores; medians, seconds (spread)\n")
    print(
        "| model | browser | workgroup memory is | first call | processor | second call |\n|---|---|---|---|---|---|"
    )
    for (model, browser, way), rows in found.items():

        def cell(what: str, rows: list[dict[str, float]] = rows) -> str:
            values = [row[what] for row in rows]
            return f"{statistics.median(values):.2f} ({min(values):.2f} – {max(values):.2f})"

        print(f"| {model} | {browser} | {way} | {cell('first')} | {cell('processor')} | {cell('second')} |")
    for model, browser in cases:
        slow, quick = (found[model, browser, way] for way in WAYS)
        ratios = sorted(s["first"] / q["first"] for s, q in zip(slow, quick, strict=True))
        print(
            f"{model} in {browser}: {statistics.median(ratios):.1f} x ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
