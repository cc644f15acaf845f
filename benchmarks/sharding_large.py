"""How a model of more than 2 GiB is cut: by file, with the memory that each step took.

``python benchmarks/sharding_large.py [--run]``: a language model of made-up weights (float32 as external data) is written,
read, observed, cut into three and checked; each step in a process of its own, so that its peak memory can be told. ``--run``
then asks it over three browsers, which takes three times its size in memory and some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pytest_browserpool.sharding.llm.config import LlamaConfig
from pytest_browserpool.sharding.llm.generate import cache_links, empty_cache, greedy, greedy_session
from pytest_browserpool.sharding.llm.llama import build
from pytest_browserpool.sharding.llm.made_up import shape_of
from pytest_browserpool.sharding.plan import Host

MIB = 1 << 20
CONFIG = LlamaConfig(
    blocks=12,
    width=2048,
    heads=16,
    kv_heads=8,
    hidden=5632,
    vocabulary=32000,
    rope_base=1e4,
    epsilon=1e-5,
    context=128,
)
"""2.5 GiB: the measures of a model of a billion parameters, with half as many blocks."""

SHAPES = {
    "input_ids": (1, 1),
    "attention_mask": (1, 9),
    CONFIG.past[0]: (1, CONFIG.kv_heads, 8, CONFIG.head_size),
}
HOSTS = [Host(name=name) for name in ("one", "two", "three")]
PROMPT = [3, 1, 4, 1, 5]


@lru_cache(maxsize=1)
def _noise() -> Any:
    return np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)


def weights(name: str) -> Any:
    """One block of noise over and over, begun elsewhere for each name: 2 GiB of random numbers would take minutes."""
    shape = shape_of(CONFIG, name)
    block = np.roll(_noise(), sum(name.encode()) * 7919)
    return np.resize(block, math.prod(shape)).reshape(shape) * np.float32(1 / shape[-1] ** 0.5)


def write(folder: Path) -> None:
    build(CONFIG, weights, folder / "large.onnx")


def read(folder: Path) -> None:
    from pytest_browserpool.sharding.read import read

    read(folder / "large.onnx", SHAPES)


def observe(folder: Path) -> None:
    from pytest_browserpool.sharding.prepare import read_for_sharding

    read_for_sharding(folder / "large.onnx", SHAPES)


def split(folder: Path) -> None:
    from pytest_browserpool.sharding.partition import partition
    from pytest_browserpool.sharding.read import read
    from pytest_browserpool.sharding.split import write_segments

    source = read(folder / "large.onnx", SHAPES)
    plan = partition(source.graph, HOSTS, 3)
    for file in write_segments(source, plan, folder / "segments"):
        print(f"    segment {file.index}: {file.bytes / MIB:.0f} MiB")


def prepare(folder: Path) -> None:
    from pytest_browserpool.sharding.prepare import prepare, read_for_sharding

    source = read_for_sharding(folder / "large.onnx", SHAPES)
    prepare(source, shards=3, hosts=HOSTS, folder=folder / "kept")


def measured(step: Callable[[Path], None], folder: Path) -> None:
    """Runs one step in a new process; prints its seconds and peak of resident memory."""

    def work(queue: Any) -> None:
        import onnx  # noqa: F401 - what every step needs is not counted
        import onnxruntime  # noqa: F401

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        step(folder)
        queue.put((time.perf_counter() - started, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step.__name__} ended with {process.exitcode}")
    seconds, before, peak = queue.get()
    print(
        f"  {step.__name__:8} {seconds:6.1f} s, peak {(peak - before) / 1024:6.0f} MiB above an idle process",
        flush=True,
    )


def over_browsers(folder: Path) -> None:
    """Tokens of the model over three browsers, against native onnxruntime."""
    from sharding_execution import load

    from pytest_browserpool.config import Settings
    from pytest_browserpool.node.node import Node
    from pytest_browserpool.sharding.native import NativeWhole

    expected = greedy(NativeWhole(folder / "large.onnx", optimise=True).run, CONFIG, PROMPT, 4)
    node = Node(Settings(rootdir=str(Path.cwd()), db=""), "bench", lambda message: None)
    with contextlib.closing(node):
        have = tuple(b.name for b in node.capabilities().browsers)[:3]
        node.begin_test("large")
        started = time.perf_counter()
        model = load(node, folder / "large.onnx", have, shards=3, input_shapes=SHAPES)
        print(f"  over {' + '.join(have)}: opened in {time.perf_counter() - started:.0f} s")
        with model.session(cache_links(CONFIG), initial=empty_cache(CONFIG)) as session:
            started = time.perf_counter()
            made = greedy_session(session, PROMPT, 4)
        same = "the same tokens" if made == expected else f"OTHER TOKENS {made}, {expected}"
        print(f"  4 tokens in {time.perf_counter() - started:.1f} s, {same} as native onnxruntime")
        node.end_test()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="over three browsers as well")
    parser.add_argument("--folder", type=Path, default=None, help="for 8 GiB of files; removed again")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="large-", dir=options.folder))
    try:
        measured(write, folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"  the model: {size / MIB:.0f} MiB")
        for step in (read, observe, split):
            measured(step, folder)
        shutil.rmtree(folder / "segments")
        measured(prepare, folder)
        shutil.rmtree(folder / "kept")
        if options.run:
            over_browsers(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
