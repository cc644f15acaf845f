"""What it costs to have one of two shards on another node: ``make bench-sharding``.

Both nodes are processes of this machine (``-n 2``), so no network is in between: what is measured is the way through the
controller and both links. The same two shards of Chromium take turns, on one node and over two.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sharding_execution import MIB, RECOGNISER, WARMING, load, transfer

if TYPE_CHECKING:
    from pytest_browserpool.node.node import Node

SUITE = """
import sys
import pytest

sys.path.insert(0, {here!r})
from sharding_nodes import measure

@pytest.mark.model(browsers=["chromium"])
def test_nodes(request, browser_pool):
    measure(request, rounds={rounds}, requests={requests}, transfers={transfers}, results={results!r})
"""

PAIR = ("chromium", "chromium")
DEADLINE = 230.0
"""Seconds for all of it: three rounds take about a minute on an idle machine."""


@contextlib.contextmanager
def too_few_browsers(node: Node) -> Iterator[None]:
    """The node may run one browser only while a model is opened, so that another node lends the second."""
    settings, capabilities = node.settings, node.capabilities()
    node.settings = dataclasses.replace(settings, max_browsers=1)
    node._capabilities = dataclasses.replace(capabilities, max_browsers=1)
    try:
        yield
    finally:
        node.settings, node._capabilities = settings, capabilities


def throughput(node: Node, requests: int) -> None:
    """Requests per second of the text recogniser: several in flight, and one by one."""
    shape = (1, 3, 48, 320)
    inputs = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    model: Any = load(node, RECOGNISER, PAIR, input_shapes={"x": shape})
    for _ in range(WARMING):
        model(inputs)
    started = time.perf_counter()
    for _ in range(requests // 2):
        model(inputs)
    one = requests // 2 / (time.perf_counter() - started)
    before, started = model.shards, time.perf_counter()
    assert sum(1 for _ in model.run_many([inputs] * requests, in_flight=8)) == requests
    rate = requests / (time.perf_counter() - started)
    print(f"  text recogniser, 2 shards: {rate:.2f} requests/s with 8 in flight, {one:.2f} one by one")
    for shard, was in zip(model.shards, before, strict=True):
        print(
            f"    on {shard.node}: {shard.placement['wasm']} nodes, for each request compute "
            f"{(shard.compute_ms - was.compute_ms) / requests:.1f} ms, "
            f"transfer {(shard.transfer_ms - was.transfer_ms) / requests:.1f} ms, "
            f"{(shard.bytes_in - was.bytes_in) / requests / MIB:.2f} MiB in, "
            f"{(shard.bytes_out - was.bytes_out) / requests / MIB:.2f} out"
        )


def measure(request: Any, *, rounds: int, requests: int, transfers: int, results: str) -> None:
    """Inside a test of one of the two nodes."""
    from pytest_browserpool.worker import node_for

    node = node_for(request.node)
    with open(results, "w") as file, contextlib.redirect_stdout(file):
        for number in range(rounds):
            for layout in ("one node", "two nodes"):
                print(f"{layout}, round {number + 1}, load {os.getloadavg()[0]:.1f}")
                with contextlib.ExitStack() as stack:
                    if layout == "two nodes":
                        stack.enter_context(too_few_browsers(node))
                    for name, part in (
                        ("transfer", lambda: transfer(node, PAIR, 16 * MIB, transfers)),
                        ("throughput", lambda: throughput(node, requests)),
                    ):
                        node.begin_test(f"{layout}, {name}")
                        try:
                            part()
                        finally:
                            node.end_test()
                file.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--transfers", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        suite, results = Path(directory), Path(directory) / "results.txt"
        (suite / "pytest.ini").write_text("[pytest]\n")
        told = SUITE.format(here=str(Path(__file__).parent), results=str(results), **vars(options))
        (suite / "test_nodes.py").write_text(told)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--browserpool",
            "-n",
            "2",
            "-q",
            "--rootdir",
            directory,
            directory,
        ]
        command += [
            "--browserpool-shards-over=nodes",
            "--browserpool-browsers=chromium",
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DEADLINE)
        print(results.read_text() if results.exists() else "", end="")
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-2000:])
    print(f"\nnumpy {np.__version__}, {os.cpu_count()} cores")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
