"""Shards as ONNX models: together equal to the whole in native onnxruntime, bit for bit; bad models
refused.
"""

from __future__ import annotations

import builtins
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sharding_graphs import (
    REAL,
    control_flow,
    model,
    resnet50,
    scan,
    tensor,
    transformer,
    two_in_three_out,
    weights,
    with_function,
    with_optional,
    with_sequence,
)

from pytest_browserpool.errors import (
    ConfigurationError,
    InputError,
    InvalidModel,
    ShardingError,
    UnsupportedOperator,
)
from pytest_browserpool.sharding.graph import with_seconds
from pytest_browserpool.sharding.native import (
    NativeCheck,
    check,
    compare,
    feeds_for,
    measure,
    observe,
    read_observed,
)
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host, Plan, make_plan
from pytest_browserpool.sharding.read import Source, read
from pytest_browserpool.sharding.split import SegmentFile, segment_model, write_segments

HOSTS = [Host(name=f"browser{i}") for i in range(12)]


def cut(
    source: Source, shards: int, folder: Path, strategy: str = "layer_balanced"
) -> tuple[Plan, tuple[SegmentFile, ...]]:
    plan = partition(source.graph, HOSTS[:shards], shards, strategy)
    return plan, write_segments(source, plan, folder)


def every_cut(source: Source) -> list[Plan]:
    """A plan for each single place where the graph may be cut."""
    graph, count = source.graph, len(source.graph.nodes)
    free = [p for p, names in enumerate(graph.barriers()) if not names and 0 < p < count]
    return [make_plan(graph, [(0, range(p)), (1, range(p, count))], HOSTS[:2], "by hand") for p in free]


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("name", [*REAL, "resnet50"])
def test_shards_of_real_models_equal_the_whole(
    name: str, shards: int, real_model: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    path, shapes = real_model(name)
    source = read_observed(path, shapes)
    plan, files = cut(source, shards, tmp_path)
    feeds = feeds_for(source, seed=shards)
    exact = check(source, files, feeds)
    assert exact.identical, exact
    optimised = check(source, files, feeds, optimise=True)
    optimised.require()
    assert len({f.shard for f in files}) == shards
    assert plan.bottleneck_s < partition(source.graph, HOSTS[:1], 1).bottleneck_s


@pytest.mark.parametrize(
    "build", [two_in_three_out, control_flow, scan, with_function, lambda: transformer(2)]
)
def test_every_single_cut_of_an_awkward_graph_equals_the_whole(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    shapes = {"a": (3, 16), "b": (3, 16), "tokens": (2, 5)}
    whole = build()
    source = read(whole, {i.name: shapes[i.name] for i in whole.graph.input if i.name in shapes})
    plans = every_cut(source)
    assert len(plans) == len(source.graph.nodes) - 1
    for number, plan in enumerate(plans):
        files = write_segments(source, plan, tmp_path / str(number))
        for file in files:
            # the checker wants a shape for each input, and what comes of a Loop has not even a rank
            if all(source.types.shape(name) is not None for name in file.inputs + file.outputs):
                onnx.checker.check_model(file.path)
        assert check(source, files, feeds_for(source, number)).identical, plan.describe()


def test_more_shards_than_two_with_skips_over_several(tmp_path: Path) -> None:
    source = read(two_in_three_out(), {"a": (3, 16), "b": (3, 16)})
    count = len(source.graph.nodes)
    for shards in range(2, count + 1):
        plan, files = cut(source, shards, tmp_path / str(shards))
        assert check(source, files, feeds_for(source)).identical
    assert len(plan.segments) == count
    # v is read in two segments, and so is w: each has its own copy, and the plan says so
    assert plan.duplicated_bytes == 2 * 16 * 16 * 4


def test_a_body_stays_whole_and_takes_what_it_captures_along(tmp_path: Path) -> None:
    source = read(control_flow())
    for plan in every_cut(source):
        models = [segment_model(source, s) for s in plan.segments]
        owners = [m for m in models for n in m.graph.node if n.op_type == "If"]
        assert len(owners) == 1
        assert "w" in {t.name for t in owners[0].graph.initializer}
        relu = next(i for i, m in enumerate(models) if any(n.op_type == "Relu" for n in m.graph.node))
        loop = next(i for i, m in enumerate(models) if any(n.op_type == "Loop" for n in m.graph.node))
        assert ("x1" in plan.segments[loop].inputs) == (relu != loop)


def test_only_the_functions_in_use_are_copied() -> None:
    source = read(with_function())
    middle = make_plan(source.graph, [(0, [0]), (1, [1]), (2, [2])], HOSTS[:3], "by hand")
    used = [[f.name for f in segment_model(source, s).functions] for s in middle.segments]
    assert used == [["Twice", "Block"], [], ["Twice", "Block"]]


def test_symbolic_shapes_stay_so_that_other_sizes_run(tmp_path: Path) -> None:
    source = read(two_in_three_out(), {"a": (3, 16), "b": (3, 16)})
    _, files = cut(source, 3, tmp_path)
    wider = read(two_in_three_out(), {"a": (7, 16), "b": (7, 16)})
    assert check(wider, files, feeds_for(wider)).identical


def test_metadata_and_opset_are_kept(real_model: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> None:
    path, shapes = real_model("recogniser")
    source = read(path, shapes)
    _, files = cut(source, 2, tmp_path)
    for file in files:
        part = onnx.load(file.path)
        assert {p.key for p in part.metadata_props} == {p.key for p in source.model.metadata_props}
        assert [(o.domain, o.version) for o in part.opset_import] == [
            (o.domain, o.version) for o in source.model.opset_import
        ]


def external(folder: Path, *, rows: int = 64) -> Path:
    """Four products with their weights in a data file, at offsets that are not the start."""
    names = [f"w{i}" for i in range(4)]
    states = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("MatMul", [states[i], names[i]], [states[i + 1]]) for i in range(4)]
    shape = [1, rows]
    graph = helper.make_graph(
        nodes, "external", [tensor("x", shape)], [tensor("y", shape)], [weights(n, rows, rows) for n in names]
    )
    folder.mkdir(exist_ok=True)
    onnx.save(
        model(graph),
        folder / "whole.onnx",
        save_as_external_data=True,
        location="whole.data",
        size_threshold=0,
    )
    return folder / "whole.onnx"


def test_external_data_is_copied_range_by_range(tmp_path: Path) -> None:
    source = read(external(tmp_path / "whole"))
    _, files = cut(source, 3, tmp_path / "parts")
    assert check(source, files, feeds_for(source)).identical
    sizes = [Path(f.data).stat().st_size for f in files]
    assert sum(sizes) >= 4 * 64 * 64 * 4
    assert all(Path(f.path).stat().st_size < 2000 for f in files)
    for file in files:
        onnx.checker.check_model(file.path)


def test_external_data_larger_than_two_gibibytes_never_enters_memory(tmp_path: Path) -> None:
    """A sparse data file of 2.3 GiB in 24 weights: reading, cutting, writing the last take 60 MiB at most."""
    import tracemalloc

    rows, count = 5_056, 24
    size = rows * rows * 4
    names = [f"w{i}" for i in range(count)]
    tensors = []
    for number, name in enumerate(names):
        made = TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=[rows, rows], data_location=TensorProto.EXTERNAL
        )
        for key, value in (("location", "huge.data"), ("offset", number * size), ("length", size)):
            entry = made.external_data.add()
            entry.key, entry.value = key, str(value)
        tensors.append(made)
    nodes = [helper.make_node("MatMul", [f"s{i}", names[i]], [f"s{i + 1}"]) for i in range(count)]
    graph = helper.make_graph(
        nodes, "huge", [tensor("s0", [1, rows])], [tensor(f"s{count}", [1, rows])], tensors
    )
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "huge.onnx").write_bytes(made_model.SerializeToString())
    with (tmp_path / "huge.data").open("wb") as data:
        data.truncate(count * size)
        data.seek(-size, 2)
        data.write(mark := np.arange(rows * rows, dtype=np.float32).tobytes())
    assert count * size > 2**31
    tracemalloc.start()
    source = read(tmp_path / "huge.onnx")
    plan = partition(source.graph, HOSTS[:2], 2)
    assert sum(s.parameter_bytes for s in plan.segments) == count * size
    last = make_plan(source.graph, [(0, range(count - 1)), (1, [count - 1])], HOSTS[:2], "by hand").segments[
        1
    ]
    (file,) = write_segments(source, dataclasses.replace(plan, segments=(last,)), tmp_path / "parts")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Path(file.data).stat().st_size == size
    assert Path(file.data).read_bytes() == mark
    assert peak < 60 * 2**20


def test_external_data_may_not_lie_outside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path / "whole")
    (tmp_path / "whole" / "whole.data").rename(tmp_path / "whole.data")
    made = onnx.load(path, load_external_data=False)
    for t in made.graph.initializer:
        next(e for e in t.external_data if e.key == "location").value = "../whole.data"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(InvalidModel, match="outside the model's folder"):
        cut(read(path), 2, tmp_path / "parts")


def test_missing_and_short_external_data_are_told(tmp_path: Path) -> None:
    path = external(tmp_path / "whole")
    data = path.with_name("whole.data")
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(InvalidModel, match="ends 10 bytes before tensor"):
        cut(read(path), 2, tmp_path / "parts")
    data.unlink()
    with pytest.raises(InvalidModel, match="cannot read the data of tensor"):
        cut(read(path), 2, tmp_path / "parts")
    with pytest.raises(InvalidModel, match="was not given as a file"):
        cut(read(path.read_bytes()), 2, tmp_path / "parts")


def test_a_sequence_does_not_pass() -> None:
    source = read(with_sequence())
    assert [p for p, names in enumerate(source.graph.barriers()) if names] == [3]
    plan = partition(source.graph, HOSTS[:4], 4)
    assert [2, 3] in [list(s.nodes) for s in plan.segments]
    with pytest.raises(ShardingError, match=r"'both' is a sequence and cannot pass(.|\n)*shards=4"):
        partition(source.graph, HOSTS[:5], 5)


@pytest.mark.parametrize("reading", [read, read_observed])  # a run returns what is in an optional as a tensor
def test_an_optional_does_not_pass(reading: Callable[[onnx.ModelProto], Source]) -> None:
    source = reading(with_optional())
    assert [p for p, names in enumerate(source.graph.barriers()) if names] == [2]
    with pytest.raises(ShardingError, match=r"'maybe' is an optional and cannot pass(.|\n)*shards=3"):
        partition(source.graph, HOSTS[:4], 4)


def test_open_dimensions_are_asked_for() -> None:
    with pytest.raises(
        ShardingError, match=r"dimension 0 of input 'a' is open \(n\)(.|\n)*input_shapes=\{'a': \(1, 16\)\}"
    ):
        read(two_in_three_out())
    assert read(two_in_three_out(), dimensions={"n": 2}).graph.values["c1"].size == 2 * 16 * 4
    assert read(two_in_three_out(), {"a": (5, 16)}).graph.values["b1"].size == 5 * 16 * 4  # n is n everywhere
    with pytest.raises(InputError, match=r"names 'z'(.|\n)*a, b"):
        read(two_in_three_out(), {"z": (1,)})
    with pytest.raises(InputError, match="has 3 dimensions, the model's has 2"):
        read(two_in_three_out(), {"a": (1, 2, 3)})


def test_custom_operators_and_broken_files_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Magic", ["x"], ["y"], domain="acme")
    graph = helper.make_graph([node], "custom", [tensor("x", [1])], [tensor("y", [1])])
    custom = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    )
    with pytest.raises(UnsupportedOperator, match=r"acme\.Magic"):
        read(custom)
    with pytest.raises(InvalidModel, match="not an ONNX model"):
        read(b"not a model at all")
    with pytest.raises(InvalidModel, match="cannot read"):
        read(tmp_path / "nowhere.onnx")
    with pytest.raises(InvalidModel, match="no nodes"):
        read(b"")


def test_what_inference_cannot_type_is_seen_in_a_run(tmp_path: Path) -> None:
    """onnx knows no type for com.microsoft's operators: no cut without a run, any cut after one."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Gelu", ["a"], ["b"], domain="com.microsoft"),
        helper.make_node("Gelu", ["b"], ["c"], domain="com.microsoft"),
        helper.make_node("Neg", ["c"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "contrib", [tensor("x", [2, 4])], [tensor("y", [2, 4])])
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    blind = read(made)
    with pytest.raises(ShardingError, match="type that shape inference does not find"):
        partition(blind.graph, HOSTS[:4], 4)
    source = read_observed(made)
    _, files = cut(source, 4, tmp_path)
    assert check(source, files, feeds_for(source)).identical
    assert observe(blind)["b"].tensor_type.shape.dim[1].dim_value == 4


def test_constants_are_copied_and_random_numbers_are_not(tmp_path: Path) -> None:
    source = read(resnet50())
    assert len(source.constants) == 239
    noise = [
        helper.make_node("RandomUniform", [], ["r"], shape=[2, 4], seed=1.0),
        helper.make_node("Add", ["x", "r"], ["a"]),
        helper.make_node("Add", ["a", "r"], ["y"]),
    ]
    drawn = read(model(helper.make_graph(noise, "noise", [tensor("x", [2, 4])], [tensor("y", [2, 4])])))
    assert not drawn.constants
    for plan in every_cut(drawn):
        assert (
            sum(
                n.op_type == "RandomUniform"
                for s in plan.segments
                for n in segment_model(drawn, s).graph.node
            )
            == 1
        )


def test_sparse_weights_go_with_their_nodes(tmp_path: Path) -> None:
    positions = np.array([0, 5, 10, 15], np.int64)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1.0, 2.0, 3.0, 4.0], np.float32), "sparse"),
        numpy_helper.from_array(positions, "positions"),
        [4, 4],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "sparse"], ["b"]),
        helper.make_node("Tanh", ["b"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "sparse", [tensor("x", [2, 4])], [tensor("y", [2, 4])])
    graph.sparse_initializer.append(sparse)
    source = read(model(graph))
    plan, files = cut(source, 3, tmp_path)
    assert [s.parameter_bytes for s in plan.segments] == [0, 16, 0]
    assert check(source, files, feeds_for(source)).identical


def test_nodes_are_measured(real_model: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> None:
    path, shapes = real_model("angle")
    source = read_observed(path, shapes)
    seconds = measure(source, tmp_path)
    assert set(seconds) >= {n.index for n in source.graph.nodes}
    convolutions = sum(seconds[n.index] for n in source.graph.nodes if n.op == "Conv")
    assert convolutions > 0.2 * sum(seconds.values())
    assert not list(tmp_path.iterdir())
    graph = with_seconds(source.graph, seconds)
    plan = partition(graph, HOSTS[:2], 2)
    files = write_segments(source, plan, tmp_path)
    assert check(source, files, feeds_for(source)).identical


def test_a_wrong_shard_is_caught(tmp_path: Path) -> None:
    source = read(two_in_three_out(), {"a": (3, 16), "b": (3, 16)})
    _, files = cut(source, 2, tmp_path)
    part = onnx.load(files[1].path)
    weight = next(t for t in part.graph.initializer if t.name == "v")
    values = numpy_helper.to_array(weight).copy()
    values[3, 3] += 1e-2
    weight.CopyFrom(numpy_helper.from_array(values, "v"))
    onnx.save(part, files[1].path)
    for optimise in (False, True):
        with pytest.raises(ShardingError, match=r"output '(far|total)' is off by"):
            check(source, files, feeds_for(source), optimise=optimise).require()


def outputs_of(values: Mapping[str, Sequence[Any]], dtype: str) -> dict[str, Any]:
    return {name: np.asarray(v, dtype) for name, v in values.items()}


@pytest.mark.parametrize(
    ("left", "right", "optimised", "equal"),
    [
        ([1.0, np.nan], [1.0, np.nan], False, True),
        ([1.0], [1.0 + 1e-7], False, False),
        ([1.0], [1.0 + 1e-6], True, True),
        ([1.0], [1.001], True, False),
        ([np.nan], [1.0], True, False),
        ([np.inf], [np.inf], True, True),
        ([np.inf], [1.0], True, False),
        ([0.0], [-0.0], True, True),
        ([1.0], [1.0, 1.0], True, False),
    ],
)
def test_comparison(left: list[float], right: list[float], optimised: bool, equal: bool) -> None:
    found: NativeCheck = compare(
        outputs_of({"y": left}, "f4"), outputs_of({"y": right}, "f4"), optimised=optimised
    )
    assert (not found.beyond) == equal
    assert found.identical == (
        outputs_of({"y": left}, "f4")["y"].tobytes() == outputs_of({"y": right}, "f4")["y"].tobytes()
    )


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match="pip install onnxruntime"):
        observe(read(with_sequence()))
