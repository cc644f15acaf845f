"""Models in real browsers: every tensor type, sizes of zero, open shapes, external data, placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models as make
import pytest
from onnx import TensorProto as T

from pytest_browserpool.errors import (
    BackendRefused,
    BrowserPoolError,
    CapabilityError,
    InputError,
    InvalidModel,
    OutOfMemory,
    SourceError,
)

TYPES = {
    "float32": T.FLOAT,
    "float64": T.DOUBLE,
    "float16": T.FLOAT16,
    "int8": T.INT8,
    "int16": T.INT16,
    "int32": T.INT32,
    "int64": T.INT64,
    "uint8": T.UINT8,
    "uint16": T.UINT16,
    "uint32": T.UINT32,
    "uint64": T.UINT64,
    "bool": T.BOOL,
}


def extremes(dtype: str) -> Any:
    """Values that break careless conversions: limits, signed zero, NaN, infinities, every bool."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        info = np.finfo(kind)
        return np.array([info.max, info.min, info.tiny, 0.0, -0.0, np.nan, np.inf, -np.inf, 1 / 3], kind)
    if kind.kind == "b":
        return np.array([True, False, True], kind)
    info = np.iinfo(kind)
    return np.array([info.max, info.min, 0, 1, info.max // 3], kind)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_comes_back_bit_for_bit(bench, kind, dtype):
    model = bench.load(make.identity(TYPES[dtype]), kind)
    x = extremes(dtype)
    y = model({"x": x})["y"]
    assert y.dtype == x.dtype
    assert y.tobytes() == x.tobytes()
    y[:] = 0  # it is the caller's own


def test_strings_come_back_as_they_were(bench, kind):
    model = bench.load(make.identity(T.STRING), kind)
    words = np.array(["", "plain", "Grüße, 世界 🎉", "tab\tand\nline", "<script>"], dtype=object)
    assert model({"x": words})["y"].tolist() == words.tolist()


@pytest.mark.parametrize("name", ["constructor", "toString", "名 前", "a/b c"])
def test_an_output_may_have_any_name(bench, name):
    node = make.helper.make_node("Identity", ["x"], [name])
    graph = make.helper.make_graph([node], "named", [make.value("x", ("n",))], [make.value(name, ("n",))])
    assert bench.load(make.build(graph), "chromium")({"x": [1, 2]})[name].tolist() == [1, 2]


@pytest.mark.parametrize("runs", [0, -1, 1.5, "3"])
def test_a_benchmark_of_no_runs_is_refused(bench, runs):
    with pytest.raises(InputError, match="runs is"):
        bench.load(make.identity(T.FLOAT), "chromium").benchmark({"x": [1]}, runs)


@pytest.mark.parametrize("dims", [(0,), (3, 0, 2), (), (1, 1, 1, 1)])
def test_empty_and_scalar_tensors(bench, kind, dims):
    model = bench.load(make.identity(T.FLOAT, [f"d{i}" for i in range(len(dims))]), kind)
    y = model({"x": np.ones(dims, np.float32)})["y"]
    assert y.shape == dims
    assert y.size == np.prod(dims, dtype=int)


def test_unaligned_sizes_do_not_shift_what_follows(bench, kind):
    model = bench.load(make.identity(T.UINT8), kind)
    for size in (1, 3, 7, 9, 8191):
        x = np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)
        assert np.array_equal(model({"x": x})["y"], x)


def test_lists_and_foreign_byte_order_are_converted(bench):
    model = bench.load(make.identity(T.FLOAT), "chromium")
    assert model({"x": [1, 2.5]})["y"].tolist() == [1, 2.5]
    assert model({"x": np.array([1, 2], ">f4")})["y"].tolist() == [1, 2]


def test_external_data_is_fetched_before_the_session(bench, kind, tmp_path):
    path = make.with_external_data(tmp_path)
    x = np.ones((1, 8), np.float32)
    expected = x @ np.arange(64, dtype=np.float32).reshape(8, 8)
    assert np.allclose(bench.load(str(path), kind)({"x": x})["y"], expected)


def test_webgpu_really_runs_there(bench, kind):
    model = bench.load(make.affine(3.0), kind, "webgpu")
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert np.allclose(model({"x": x})["y"], 3 * x + 1)
    assert model.backend == "webgpu"
    assert model.placement == {"webgpu": 2}
    assert "software" in model.adapter or "hardware" in model.adapter


@pytest.mark.parametrize("backend", ["webnn", "webnn-gpu", "webnn-npu"])
def test_webnn_runs_a_model_with_open_shapes_once_they_are_known(bench, backend):
    model = bench.load(make.symbolic(), "headless-shell", backend)
    assert model.backend is None  # nothing has run: nothing is claimed
    for shape in ((2, 3), (1, 5), (2, 3)):
        x = np.linspace(-1, 1, np.prod(shape), dtype=np.float32).reshape(shape)
        assert np.allclose(model({"x": x})["y"], np.maximum(x, 0) * 3)
        assert model.backend == backend
        assert model.placement["webnn"] == 2


def test_input_shapes_load_a_webnn_session_at_once(bench):
    model = bench.load(make.symbolic(("b", "c")), "headless-shell", "webnn", input_shapes={"x": (2, 2)})
    assert model.backend == "webnn"
    assert model({"x": np.full((2, 2), -1, np.float32)})["y"].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [({"z": (2, 2)}, "no input 'z'"), ({"x": (2, 2, 2)}, "rank 3, not 2"), ({"x": (2, -1)}, "negative")],
)
def test_input_shapes_that_the_model_cannot_have_are_refused_on_every_backend(bench, shapes, words):
    with pytest.raises(InputError, match=words):
        bench.load(make.symbolic(("b", "c")), "chromium", "wasm", input_shapes=shapes)


def test_a_backend_that_got_no_node_is_refused(bench):
    with pytest.raises(BackendRefused, match=r"webnn in headless-shell got no node.*on wasm"):
        bench.load(make.sequence_operator(), "headless-shell", "webnn")


def test_the_next_backend_is_taken_and_said(bench):
    from pytest_browserpool.fixtures import Model
    from pytest_browserpool.values import ModelNeeds

    needs = ModelNeeds(browsers=("=headless-shell",), backends=("webnn", "wasm"))
    model = Model(bench.node, bench.node.load(needs, make.sequence_operator(), None))
    assert model.backend == "wasm"
    assert model({"x": np.eye(2, dtype=np.float32)})["y"].tolist() == [[0, 1], [0, 1]]
    assert any(e["backend"] == "webnn" for e in bench.events("BackendRefusedThere"))


def test_a_backend_that_the_browser_lacks_is_refused_with_its_own_words(bench):
    with pytest.raises(CapabilityError, match=r"chromium/webnn: createContext\(cpu\): NotSupportedError"):
        bench.load(make.affine(), "chromium", "webnn")


BAD: dict[str, tuple[Any, type[BrowserPoolError], str]] = {
    "missing file": ("no/such.onnx", SourceError, "no/such.onnx"),
    "not onnx": (b"hello, I am a text", InvalidModel, "not an ONNX model"),
    "truncated": (make.weights(1)[:-1000], InvalidModel, "cut short|not an ONNX model|damaged"),
    "unknown operator": (make.unknown_operator(), BrowserPoolError, "Frobnicate|example.nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_model_is_a_clear_error_and_costs_no_browser(bench, kind, case):
    source, error, words = BAD[case]
    bench.load(make.affine(), kind)
    before = bench.node.pool.launches
    with pytest.raises(error, match=words):
        bench.load(source, kind)
    assert bench.load(make.affine(), kind).warm  # the same page goes on
    assert bench.node.pool.launches == before


CALLS: dict[str, tuple[Any, str]] = {
    "wrong name": ({"z": np.zeros((4, 4), np.float32)}, "no input 'z'.*x: float"),
    "missing": ({}, "'x' is missing"),
    "wrong dtype": ({"x": np.zeros((4, 4))}, "float64, the model wants float32"),
    "wrong rank": ({"x": np.zeros(4, np.float32)}, "rank 1.*4, 4"),
    "wrong size": ({"x": np.zeros((4, 5), np.float32)}, "axis 1 is 5.*4, 4"),
    "no mapping": (np.zeros((4, 4), np.float32), "got ndarray"),
    "complex": ({"x": np.zeros((4, 4), np.complex64)}, "complex64, the model wants float32"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_bad_call_is_a_clear_error_before_anything_is_sent(bench, case):
    inputs, words = CALLS[case]
    model = bench.load(make.affine(), "chromium")
    calls = bench.page_of(model).channel.calls
    with pytest.raises(InputError) as caught:
        model(inputs)
    assert __import__("re").search(words, str(caught.value), __import__("re").S)
    assert bench.page_of(model).channel.calls == calls


def test_nan_is_a_value_like_any_other(bench, kind):
    model = bench.load(make.affine(), kind)
    assert np.isnan(model({"x": np.full((4, 4), np.nan, np.float32)})["y"]).all()


def test_more_memory_than_a_page_has_is_said_so(bench, kind):
    # recovery from it, in vain, is among the chaos tests' hard cases
    model = bench.load(make.huge(), kind, recovery="none")
    with pytest.raises(OutOfMemory):
        model({"first": [(1 << 30) - (1 << 22)], "second": [1 << 26]})
    assert bench.load(make.affine(), kind)({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1


def test_benchmark_times_inside_the_page(bench, kind):
    model = bench.load(make.affine(), kind)
    times = model.benchmark({"x": np.zeros((4, 4), np.float32)}, runs=5)
    assert len(times) == 5
    assert all(0 <= t < 5000 for t in times)


def test_reload_makes_a_session_anew(bench):
    model = bench.load(make.affine(), "chromium")
    loads = bench.node.pool.loads
    model.reload()
    assert bench.node.pool.loads == loads + 1
    assert model({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1


def test_a_path_source_is_found_beside_the_test(bench, tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(make.affine(5.0))
    from pytest_browserpool.fixtures import Model
    from pytest_browserpool.values import ModelNeeds

    needs = ModelNeeds(browsers=("=chromium",), backends=("wasm",))
    model = Model(bench.node, bench.node.load(needs, "m.onnx", tmp_path / "test_x.py"))
    assert model({"x": np.ones((4, 4), np.float32)})["y"].item(0) == 6


def test_a_model_is_read_where_it_lies_now(bench, tmp_path: Path):
    """Where it lay first, another one lies by now: a suite that exports each of several models to one place."""
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    first.write_bytes(make.affine(5.0, salt=0.5))
    bench.node.resolve(str(first), None)  # known, and in no browser yet
    first.write_bytes(make.affine(7.0, salt=0.5))
    second.write_bytes(make.affine(5.0, salt=0.5))
    model = bench.load(str(second), "chromium")
    assert model.path == second
    assert model({"x": np.ones((4, 4), np.float32)})["y"].item(0) == 5.5


def test_a_file_that_changes_while_a_test_holds_its_model_is_not_loaded_for_it(fresh_bench, tmp_path):
    """After a fault the model is loaded again: what lies there by then would answer as if nothing were."""
    bench = fresh_bench()
    path = tmp_path / "m.onnx"
    path.write_bytes(make.affine(5.0, salt=0.25))
    model = bench.load(path, "headless-shell")
    x = {"x": np.zeros((4, 4), np.float32)}
    before = model(x)["y"]
    path.write_bytes(make.affine(7.0, salt=0.75))
    np.testing.assert_array_equal(model(x)["y"], before)
    for process in model._resident.loaded.instance.process.process_tree():
        process.kill()
    with pytest.raises(SourceError, match=r"m\.onnx has changed since the test loaded it"):
        model(x)
    assert bench.load(path, "headless-shell")(x)["y"].item(0) != before.item(0)


def test_a_model_for_more_memory_than_the_node_has_is_refused_before_anything_is_launched(fresh_bench):
    bench = fresh_bench()
    with pytest.raises(CapabilityError, match=r"needs 10000 GiB, node main has \d"):
        bench.load(make.affine(), "chromium", min_memory=10_000.0)
    assert bench.node.pool.launches == 0
