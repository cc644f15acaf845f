"""What it costs to run a model over several browsers: ``make bench-sharding``.

The rate at which tensors pass from one page to another, how well requests in flight fill the pipeline, tokens per second
of the language model whole and in shards, and the time that a lost shard costs at each level of fault tolerance.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper

from pytest_browserpool.browsers.protocol import Packed, pack
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import BrowserPoolError, Fault
from pytest_browserpool.fixtures import Model, ShardedModel, _model
from pytest_browserpool.node.node import Node
from pytest_browserpool.node.sharded import ShardedResident
from pytest_browserpool.sharding.execute import AHEAD, Answer, Stage
from pytest_browserpool.values import ModelNeeds

MIB = 1 << 20
RECOGNISER = (
    "pypi:rapidocr==3.10.0/rapidocr/models/PP-OCRv6_rec_small.onnx"
    "#sha256=6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"
)
STEP = {"input_ids": (1, 1), "attention_mask": (1, 9), "past_key_values.0.key": (1, 3, 8, 64)}
"""One token of the language model after eight others."""

WARMING = 12
"""Requests before anything is timed: browsers compile WebAssembly a second time, and better, while it runs."""

PROMPT = "The capital of France is"


def load(node: Node, source: Any, browsers: tuple[str, ...], **needs: Any) -> Any:
    """A model over those browsers, whole where there is one."""
    shards = needs.pop("shards", len(browsers))
    wanted = ModelNeeds(browsers=browsers, backends=("wasm",), shards=shards, timeout=120, **needs)
    return _model(node, wanted, source, Path(__file__))


def in_test(node: Node, name: str, work: Callable[[], None]) -> None:
    """One part of the benchmark; what the machine cannot do is said."""
    node.begin_test(name)
    try:
        work()
    except BrowserPoolError as error:
        print(f"  {name}: {error.what}")
    finally:
        node.end_test()


def passing(size: int) -> bytes:
    """Two nodes that do next to nothing, with ``size`` bytes between them and one number at the end."""
    nodes = [
        helper.make_node("Neg", ["x"], ["middle"]),
        helper.make_node("ReduceMax", ["middle"], ["y"], keepdims=0),
    ]
    count = size // 4
    graph = helper.make_graph(
        [
            helper.make_node("Expand", ["seed", "size"], ["x"]),
            *nodes,
        ],
        "passing",
        [helper.make_tensor_value_info("seed", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [helper.make_tensor("size", TensorProto.INT64, [1], [count])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def transfer(node: Node, pair: tuple[str, ...], size: int, times: int) -> None:
    """Page to page: a request whose cut carries ``size`` bytes, less what is computed."""
    model: ShardedModel = load(node, passing(size), pair)
    inputs = {"seed": np.array([2.5], np.float32)}
    assert model(inputs)["y"] == -2.5
    seconds = []
    for _ in range(times):
        before = sum(s.transfer_ms for s in model.shards)
        model(inputs)
        seconds.append((sum(s.transfer_ms for s in model.shards) - before) / 1000)
    moved = [s for s in model.shards if s.bytes_out >= size]
    assert moved, "the cut did not fall where the bytes are"
    rates = sorted(size / 1e6 / s for s in seconds)
    print(
        f"  {pair[0]} to {pair[1]}, {size // MIB} MiB: {statistics.median(seconds) * 1000:.0f} ms, "
        f"{statistics.median(rates):.0f} MB/s (slowest {rates[0]:.0f}, fastest {rates[-1]:.0f})"
    )


class Recording:
    """A runner that keeps what each stage was given, so that a stage can be run by itself."""

    def __init__(self, resident: ShardedResident) -> None:
        self._resident, self.inputs = resident, dict[int, Mapping[str, Packed]]()

    async def run_stage(self, stage: Stage, tensors: Mapping[str, Packed]) -> Answer:
        self.inputs[stage.index] = tensors
        return await self._resident.run_stage(stage, tensors)

    async def restore(self, lane: int, fault: Fault) -> None:
        raise fault

    def given_up(self, lane: int, fault: Fault) -> None:
        self._resident.given_up(lane, fault)


def cpu_seconds(model: ShardedModel) -> float:
    """Of all cores, so far: the browsers of the model with everything that belongs to them, and this process, through which
    the tensors go."""
    total = time.process_time()
    for loaded in model._resident.everywhere:
        root = psutil.Process(loaded.instance.process.pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:2])
    return total


@dataclass
class Own:
    """What a shard does by itself."""

    seconds: float = 0.0
    """For one request."""
    cpu: float = 0.0
    """Seconds of all cores for one request."""

    @property
    def rate(self) -> float:
        return 1 / self.seconds


def own_rates(node: Node, model: ShardedModel, inputs: dict[str, Any], times: int) -> list[Own]:
    """Each shard by itself: its stages on what they were given in a request, its browser always with the next command
    there already, and nobody else at work."""
    resident = model._resident
    recording = Recording(resident)

    async def alone(stage: Stage) -> float:
        room = asyncio.Semaphore(AHEAD)

        async def once() -> None:
            async with room:
                await resident.run_stage(stage, recording.inputs[stage.index])

        started = time.perf_counter()
        await asyncio.gather(*(once() for _ in range(times)))
        return (time.perf_counter() - started) / times

    async def all_of_them() -> list[Own]:
        await resident.pipeline.request({n: pack(a) for n, a in inputs.items()}, runner=recording)
        own = [Own() for _ in resident.lanes]
        for stage in resident.pipeline.stages:
            before = cpu_seconds(model)
            own[stage.lane].seconds += await alone(stage)
            own[stage.lane].cpu += (cpu_seconds(model) - before) / times
        return own

    found: list[Own] = node.call(all_of_them, 300)
    return found


def efficiency(node: Node, browsers: tuple[str, ...], requests: int) -> None:
    """Throughput with 8 in flight over the own rate of the slowest stage; also one request after the other."""
    model: ShardedModel = load(node, RECOGNISER, browsers, input_shapes={"x": (1, 3, 48, 320)})
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 3, 48, 320)).astype(np.float32)}
    for _ in model.run_many([inputs] * WARMING):
        pass
    own = own_rates(node, model, inputs, max(4, requests // 2))
    started = time.perf_counter()
    for _ in range(requests // 2):
        model(inputs)
    one = requests // 2 / (time.perf_counter() - started)
    before, cpu = model.shards, cpu_seconds(model)
    started = time.perf_counter()
    assert sum(1 for _ in model.run_many([inputs] * requests, in_flight=8)) == requests
    wall = time.perf_counter() - started
    cpu = (cpu_seconds(model) - cpu) / requests
    spent = [
        (a.compute_ms - b.compute_ms, a.transfer_ms - b.transfer_ms, a.idle_ms - b.idle_ms)
        for a, b in zip(model.shards, before, strict=True)
    ]
    slowest = max(compute + moved for compute, moved, _ in spent) / 1000
    rate, bound = requests / wall, min(each.rate for each in own)
    needed = sum(each.cpu for each in own)
    cores = node.cores / needed
    print(
        f"  {' + '.join(browsers)}: {requests} requests, 8 in flight: {rate:.2f}/s, one by one {one:.2f}/s;"
    )
    print(
        f"    the slowest stage by itself {bound:.2f}/s: efficiency {rate / bound:.2f}; "
        f"in the pipeline the busiest was at work {slowest / wall:.2f} of the time"
    )
    print(
        f"    {node.cores} cores at most {cores:.2f}/s, since the stages by themselves take {needed * 1000:.0f} ms of a core "
        f"for each request ({cpu * 1000:.0f} in the pipeline): {rate / cores:.2f} of that, "
        f"{rate / min(bound, cores):.2f} of the lower of the two"
    )
    for shard, alone, (compute, moved, idle) in zip(model.shards, own, spent, strict=True):
        print(
            f"    {shard.browser.name:15} {shard.threads} thread{'s' * (shard.threads > 1)}, "
            f"by itself {alone.rate:5.2f}/s, {alone.cpu * 1000:4.0f} ms of a core; "
            f"compute {compute:6.0f}  transfer {moved:6.0f}  idle {idle:6.0f} ms"
        )


def tokens(node: Node, layouts: list[tuple[str, ...]], count: int) -> None:
    """SmolLM2's greedy tokens: whole in one browser, then over each of ``layouts``; all must be the same."""
    from pytest_browserpool.sharding.llm import smollm2
    from pytest_browserpool.sharding.llm.generate import cache_links, empty_cache, greedy, greedy_session
    from pytest_browserpool.sharding.llm.gguf_file import GgufLlama
    from pytest_browserpool.sharding.llm.tokens import Tokenizer

    weights = GgufLlama(smollm2.gguf_path())
    tokenizer = Tokenizer(weights)
    prompt = tokenizer.encode(PROMPT)
    expected: list[int] = []
    for browsers in layouts:
        node.begin_test("tokens")
        try:
            started = time.perf_counter()
            model: Model = load(node, smollm2.onnx_path, browsers, input_shapes=STEP)
            opened = time.perf_counter() - started
            greedy(model, weights.config, prompt, 1)
            started = time.perf_counter()
            made = greedy(model, weights.config, prompt, count)
            rate = count / (time.perf_counter() - started)
            with model.session(cache_links(weights.config), initial=empty_cache(weights.config)) as session:
                started = time.perf_counter()
                kept = greedy_session(session, prompt, count)
                rate_kept = count / (time.perf_counter() - started)
        finally:
            node.end_test()
        expected = expected or made
        same = "the same tokens" if made == kept == expected else f"OTHER TOKENS: {tokenizer.decode(made)!r}"
        print(
            f"  {' + '.join(browsers)}: {rate:.2f} tokens/s, {rate_kept:.2f} with the cache in the browsers; "
            f"opened in {opened:.1f} s, {same}"
        )


def recovery(node: Node, browsers: tuple[str, ...], kills: int) -> None:
    """Seconds from SIGKILL of one shard's browser to the right answer, by level."""
    shape = (1, 3, 48, 320)
    inputs = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    for level in ("low", "medium", "high"):
        node.begin_test(f"recovery {level}")
        try:
            model: ShardedModel = load(
                node, RECOGNISER, browsers, input_shapes={"x": shape}, fault_tolerance=level
            )
            expected = model(inputs)
            usual = statistics.median(_timed(model, inputs) for _ in range(3))
            seconds = []
            for number in range(kills):
                lane = model._resident.lanes[number % len(browsers)]
                pid = next(iter(lane.sessions.values())).instance.process.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                seconds.append(_timed(model, inputs))
                answer = model(inputs)
                assert all(np.allclose(answer[n], v, rtol=1e-4, atol=1e-5) for n, v in expected.items())
                time.sleep(3 if level == "high" else 0)  # the copy is made again
            print(
                f"  {level:7} median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s; "
                f"without a fault {usual:.2f} s"
            )
        finally:
            node.end_test()


def _timed(model: Model, inputs: dict[str, Any]) -> float:
    started = time.perf_counter()
    model(inputs)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--browsers", default="chromium,firefox,headless-shell")
    parser.add_argument("--requests", type=int, default=24, help="0 leaves the pipeline out")
    parser.add_argument("--tokens", type=int, default=16, help="0 leaves the language model out")
    parser.add_argument("--kills", type=int, default=4, help="per level; 0 leaves recovery out")
    parser.add_argument("--transfers", type=int, default=5, help="per pair of browsers; 0 leaves them out")
    parser.add_argument(
        "--neighbours",
        type=int,
        default=None,
        help="share the cores between so many nodes, as -n does: threads",
    )
    options = parser.parse_args()
    node = Node(
        Settings(rootdir=str(Path.cwd()), db=""), "bench", lambda message: None, neighbours=options.neighbours
    )
    with contextlib.closing(node):
        have = tuple(b.name for b in node.capabilities().browsers if b.name in options.browsers.split(","))
        pairs = [(a, b) for a in have for b in have if a != b]
        if options.transfers:
            print("tensors from page to page")
        for pair in pairs if options.transfers else ():
            in_test(node, "transfer", lambda p=pair: transfer(node, p, 16 * MIB, options.transfers))  # type: ignore[misc]
        if options.requests:
            print("pipeline")
        for browsers in (have[:2], have) if options.requests else ():
            in_test(node, "pipeline", lambda b=browsers: efficiency(node, b, options.requests))  # type: ignore[misc]
        if options.kills:
            print("recovery")
            in_test(node, "recovery", lambda: recovery(node, have[:2], options.kills))
        if options.tokens:
            print(f"SmolLM2-135M, {options.tokens} tokens after {PROMPT!r}")
            in_test(node, "tokens", lambda: tokens(node, [have[:1], have[:2], have], options.tokens))
    print(f"\nonnx {onnx.__version__}, numpy {np.__version__}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
