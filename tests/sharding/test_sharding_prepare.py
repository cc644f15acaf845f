"""From file to checked shards: random models, kept results, damage; what importing the pure part costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from sharding_graphs import model, tensor, transformer, two_in_three_out

from pytest_browserpool.errors import InvalidModel, ShardingError
from pytest_browserpool.sharding import keeping
from pytest_browserpool.sharding.keeping import KEPT_SECONDS, MANIFEST
from pytest_browserpool.sharding.native import NativeShards, NativeWhole, feeds_for
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.prepare import gather, prepare, read_for_sharding
from pytest_browserpool.sharding.read import read

HOSTS = [Host(name=f"browser{i}", speed=1 + i / 2) for i in range(6)]


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Random models: one or two inputs, products and pointwise operators, branches, constants, several
    outputs.
    """
    inputs = ["x", "y"][: draw(st.integers(1, 2))]
    made, nodes, constants = list(inputs), [], []
    for index in range(draw(st.integers(2, 10))):
        op = draw(
            st.sampled_from(
                ("Add", "Mul", "MatMul", "Tanh", "Relu", "Softmax", "Split", "Concat", "Constant+")
            )
        )
        first, second = (draw(st.sampled_from(made[-5:])) for _ in range(2))
        name = f"v{index}"
        if op == "MatMul":
            weights = np.random.default_rng(index).standard_normal((6, 6)).astype(np.float32)
            shared = draw(st.sampled_from(("w", f"w{index}")))
            if shared not in {c.name for c in constants}:
                constants.append(numpy_helper.from_array(weights, shared))
            nodes.append(helper.make_node("MatMul", [first, shared], [name]))
        elif op == "Split":
            nodes.append(helper.make_node("Split", [first], [f"{name}a", f"{name}b"], axis=1))
            nodes.append(helper.make_node("Concat", [f"{name}b", f"{name}a"], [name], axis=1))
        elif op == "Concat":
            nodes.append(helper.make_node("Concat", [first, second], [f"{name}c"], axis=0))
            nodes.append(helper.make_node("Split", [f"{name}c"], [name, f"{name}r"], axis=0))
        elif op == "Constant+":
            value = numpy_helper.from_array(np.float32([[index]]))
            nodes.append(helper.make_node("Constant", [], [f"{name}k"], value=value))
            nodes.append(helper.make_node("Add", [first, f"{name}k"], [name]))
        else:
            nodes.append(helper.make_node(op, [first, second] if op in ("Add", "Mul") else [first], [name]))
        made.append(name)
    read_names = {name for node in nodes for name in node.input}
    ends = [n for n in made if n not in read_names and n not in inputs]
    extra = draw(st.sampled_from(made[len(inputs) :]))
    outputs = [tensor(n, [4, 6]) for n in dict.fromkeys([*ends, extra])]
    return model(helper.make_graph(nodes, "random", [tensor(n, [4, 6]) for n in inputs], outputs, constants))


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(models(), st.integers(2, 4), st.sampled_from(("layer_balanced", "auto")))
def test_random_models_are_equal_in_shards(
    tmp_path_factory: pytest.TempPathFactory, made: onnx.ModelProto, shards: int, strategy: str
) -> None:
    folder = tmp_path_factory.mktemp("random")
    source = read(made)
    if len(source.graph.nodes) < shards:
        with pytest.raises(ShardingError, match="largest number"):
            prepare(source, shards=shards, hosts=HOSTS[:4], folder=folder, strategy=strategy)
        return
    sharded = prepare(source, shards=shards, hosts=HOSTS[:4], folder=folder, strategy=strategy)
    feeds = feeds_for(source, seed=1)
    parts = NativeShards(sharded.files, sharded.outputs).run(feeds)
    whole = NativeWhole.of(source).run(feeds)
    assert [parts[n].tobytes() for n in sharded.outputs] == [whole[n].tobytes() for n in sharded.outputs]


def saved(folder: Path) -> Path:
    onnx.save(two_in_three_out(), folder / "model.onnx")
    return folder / "model.onnx"


def visible(folder: Path) -> list[str]:
    """What lies there besides lock files."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_the_same_cut_is_written_and_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read_for_sharding(saved(tmp_path), {"a": (3, 16)})
    first = prepare(source, shards=3, hosts=HOSTS[:3], folder=tmp_path / "kept")
    stamps = [os.stat(f.path).st_mtime_ns for f in first.files]
    again = prepare(source, shards=3, hosts=HOSTS[:3], folder=tmp_path / "kept")
    assert again == first
    assert [os.stat(f.path).st_mtime_ns for f in again.files] == stamps
    assert visible(tmp_path / "kept") == [Path(first.files[0].path).parent.name]
    other = prepare(source, shards=2, hosts=HOSTS[:3], folder=tmp_path / "kept")
    assert Path(other.files[0].path).parent != Path(first.files[0].path).parent


def test_cuts_that_are_not_used_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder grew with every cut, by the size of the model."""
    source, kept = read_for_sharding(saved(tmp_path), {"a": (3, 16)}), tmp_path / "kept"

    def made(shards: int) -> Path:
        return Path(prepare(source, shards=shards, hosts=HOSTS[:4], folder=kept).files[0].path).parent

    places = [made(shards) for shards in (2, 3)]
    half_written, size = (
        kept / ".new-of-a-process-that-died",
        sum(f.stat().st_size for f in places[0].iterdir()),
    )
    half_written.mkdir()
    (kept / "whole-of-links").mkdir()
    two_days_ago = time.time() - 2 * KEPT_SECONDS
    for path in (*(place / MANIFEST for place in places), half_written):
        os.utime(path, (two_days_ago, two_days_ago))
    monkeypatch.setattr(keeping, "KEPT_BYTES", size * 5)
    made(4)  # all fits
    assert all(place.exists() for place in places)
    assert not half_written.exists()
    monkeypatch.setattr(keeping, "KEPT_BYTES", 1)
    assert made(2) == places[0]  # used again, which counts
    made(1)
    assert [place.exists() for place in places] == [True, False]
    assert visible(kept) == sorted(["whole-of-links", places[0].name, made(4).name, made(1).name])


def test_damaged_shards_are_written_again(tmp_path: Path) -> None:
    source = read_for_sharding(saved(tmp_path), {"a": (3, 16)})
    first = prepare(source, shards=2, hosts=HOSTS[:2], folder=tmp_path / "kept")
    path = Path(first.files[1].path)
    for damage in (
        lambda: path.write_bytes(path.read_bytes()[:-1]),
        path.unlink,
        (path.parent / MANIFEST).unlink,
        *(
            partial((path.parent / MANIFEST).write_text, told)
            for told in ("", "null", '{"a": 1}', "[1, 2]", "[{}, {}]")
        ),
    ):
        damage()
        again = prepare(source, shards=2, hosts=HOSTS[:2], folder=tmp_path / "kept")
        assert again == first
        onnx.checker.check_model(str(path))


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    path = saved(tmp_path)
    folders = set()
    for scale in (1.0, 2.0):
        made = onnx.load(path)
        made.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.full((16, 16), scale, np.float32), made.graph.initializer[0].name)
        )
        onnx.save(made, path, save_as_external_data=True, location=f"{scale}.data", size_threshold=0)
        Path(tmp_path / f"{scale}.data").replace(tmp_path / "same.data")
        again = onnx.load(path, load_external_data=False)
        for t in again.graph.initializer:
            next(e for e in t.external_data if e.key == "location").value = "same.data"
        path.write_bytes(again.SerializeToString())
        source = read_for_sharding(path, {"a": (3, 16)})
        sharded = prepare(source, shards=2, hosts=HOSTS[:2], folder=tmp_path / "kept")
        folders.add(Path(sharded.files[0].path).parent)
    assert len(folders) == 2


@pytest.mark.parametrize("linkable", [True, False])
def test_a_model_kept_by_hash_finds_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linkable: bool
) -> None:
    onnx.save(
        two_in_three_out(),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    cache = tmp_path / "cache"
    cache.mkdir()
    model_file = (tmp_path / "m.onnx").rename(cache / "a1")
    data = (tmp_path / "m.data").rename(cache / "b2")
    if not linkable:
        monkeypatch.setattr(os, "link", refuse_links)
    path = gather(model_file, {"m.data": data}, tmp_path / "kept")
    assert gather(path, {"m.data": data}, tmp_path / "kept") == path
    source = read_for_sharding(path, {"a": (3, 16)})
    sharded = prepare(source, shards=3, hosts=HOSTS[:3], folder=tmp_path / "kept")
    assert sum(bool(f.data) for f in sharded.files) >= 2
    with pytest.raises(InvalidModel, match="outside the model's folder"):
        gather(model_file, {"../m.data": data}, tmp_path / "kept")


def refuse_links(*_: object) -> None:
    raise OSError("another file system")


def test_a_model_that_draws_numbers_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("RandomNormalLike", ["b"], ["r"]),  # onnxruntime's seed is the node's place
        helper.make_node("Add", ["b", "r"], ["y"]),
    ]
    source = read(model(helper.make_graph(nodes, "noise", [tensor("x", [4, 6])], [tensor("y", [4, 6])])))
    with pytest.raises(ShardingError, match=r"output 'y' is off by(.|\n)*random"):
        prepare(source, shards=2, hosts=HOSTS[:2], folder=tmp_path)
    assert visible(tmp_path) == []


def test_a_real_model_from_file_to_shards(
    real_model: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    path, shapes = real_model("angle")
    source = read_for_sharding(path, shapes)
    sharded = prepare(source, shards=3, hosts=HOSTS[:3], folder=tmp_path, strategy="auto")
    assert [c.strategy for c in sharded.plan.considered] == [
        "layer_balanced",
        "component",
        "attention_feedforward",
    ]
    assert sharded.plan.bottleneck_s < 1.2 * sharded.plan.lower_bound_s


def test_the_same_plan_whatever_the_order_of_sets(tmp_path: Path) -> None:
    """Strings hash differently in each process; a plan that followed would be cut and checked anew each time."""
    onnx.save(transformer(3), tmp_path / "model.onnx")
    code = (
        "import json, sys\n"
        "from pytest_browserpool.sharding.partition import partition\n"
        "from pytest_browserpool.sharding.plan import Host\n"
        "from pytest_browserpool.sharding.read import read\n"
        "graph = read(sys.argv[1], {'tokens': (2, 5)}).graph\n"
        "hosts = [Host(name='a', speed=1.3), Host(name='b'), Host(name='c', speed=0.7)]\n"
        "plans = [partition(graph, hosts, 3, s).to_plain() for s in ('auto', 'attention_feedforward')]\n"
        "print(json.dumps(plans))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "model.onnx")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


def test_attention_feedforward_with_many_unequal_hosts_is_quick(tmp_path: Path) -> None:
    import time

    source = read(transformer(12), {"tokens": (2, 5)})
    start = time.process_time()
    sharded = prepare(source, shards=5, hosts=HOSTS[:5], folder=tmp_path, strategy="attention_feedforward")
    assert (
        time.process_time() - start < 10
    )  # it takes half a second; 120 orders of hosts as whole plans took a minute
    assert len(sharded.plan.shards) == 5


def test_importing_the_pure_part_imports_nothing_heavy() -> None:
    modules = ("graph", "plan", "partition", "intervals", "optimum", "refine", "scopes", "blocks", "costs")
    names = [f"pytest_browserpool.sharding.{name}" for name in modules]
    code = f"import json, sys, {', '.join(names)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    heavy = {"numpy", "scipy", "onnx", "onnxruntime", "pytest", "xdist", "playwright", "duckdb", "aiohttp"}
    assert not heavy & set(json.loads(done.stdout))


def test_importing_the_edges_imports_nothing_heavy_either() -> None:
    names = [
        f"pytest_browserpool.sharding.{name}" for name in ("read", "shapes", "split", "native", "prepare")
    ]
    names += [
        f"pytest_browserpool.sharding.llm.{name}" for name in ("llama", "generate", "smollm2", "tokens")
    ]
    code = f"import json, sys, {', '.join(names)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"numpy", "onnx", "onnxruntime", "gguf", "tokenizers"} & set(json.loads(done.stdout))
