"""assert_close and tolerance: right answers pass whatever the order of summation, wrong ones do not."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pytest_browserpool import assert_close, tolerance
from pytest_browserpool.compare import scale
from pytest_browserpool.errors import InputError, InvalidModel, SourceError

ULP = 2.0**-23
FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE


def graph(nodes, inputs, outputs, constants=None, opset=17, functions=()):
    """A model from nodes, ``{name: (type, shape)}`` and ``{name: array}``."""
    infos = [
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in values.items()]
        for values in (inputs, outputs)
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    made = helper.make_graph(nodes, "g", *infos, initializers)
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(made, opset_imports=domains, functions=list(functions), ir_version=9)


def single(op, shapes, out_shape, constants=None, kind=FLOAT, **attributes):
    """A model of one operator over float inputs ``x0``, ``x1`` … and then its constants."""
    inputs = {f"x{i}": (kind, shape) for i, shape in enumerate(shapes)}
    node = helper.make_node(op, [*inputs, *(constants or {})], ["y"], name="only", **attributes)
    return graph([node], inputs, {"y": (kind, out_shape)}, constants)


def native(model, inputs, **options):
    settings_ = onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(settings_, name, value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings_)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def ulps(model, **options):
    return tolerance(model, **options)["y"].relative / ULP


# -- what is allowed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "allowed"),
    [
        pytest.param(single("MatMul", [[3, 50], [50, 4]], [3, 4]), 2 * 50, id="matmul: 2K"),
        pytest.param(
            single("Conv", [[1, 8, 9, 9], [4, 8, 3, 3]], [1, 4, 7, 7]), 2 * 8 * 9 + 1, id="conv: 2·kw·kh·Cin"
        ),
        pytest.param(
            single("Conv", [[1, 8, 9, 9], [8, 1, 3, 3]], [1, 8, 7, 7], group=8), 2 * 9 + 1, id="conv: groups"
        ),
        pytest.param(
            single("ConvTranspose", [[1, 8, 9, 9], [8, 4, 3, 3]], [1, 4, 11, 11]), 2 * 8 * 9 + 1, id="deconv"
        ),
        pytest.param(single("Gemm", [[3, 50], [4, 50]], [3, 4], transB=1), 2 * 50 + 2, id="gemm: transposed"),
        pytest.param(single("Softmax", [[2, 100]], [2, 100]), 3 * 100 + 3, id="softmax: 3n+3"),
        pytest.param(single("ReduceSum", [[2, 30, 5]], [2, 1, 1]), 300, id="reduce: all axes"),
        pytest.param(single("ReduceMean", [[2, 30, 5]], [2, 1, 5], axes=[1]), 32, id="reduce: one axis"),
        pytest.param(single("GlobalAveragePool", [[1, 4, 6, 7]], [1, 4, 1, 1]), 44, id="global pool"),
        pytest.param(
            single("AveragePool", [[1, 4, 6, 6]], [1, 4, 3, 3], kernel_shape=[2, 2], strides=[2, 2]),
            6,
            id="pool",
        ),
        pytest.param(single("Einsum", [[3, 50], [50, 4]], [3, 4], equation="ij,jk->ik"), 100, id="einsum"),
        pytest.param(single("Sigmoid", [[4]], [4]), 34, id="sigmoid"),
        pytest.param(single("Add", [[4], [4]], [4]), 1, id="add"),
        pytest.param(single("Relu", [[4]], [4]), 0, id="relu: exact"),
        pytest.param(single("Transpose", [[4, 2]], [2, 4]), 0, id="movement: exact"),
        pytest.param(single("Resize", [[1, 1, 4, 4]], [1, 1, 8, 8], mode="nearest"), 0, id="resize: nearest"),
        pytest.param(single("Resize", [[1, 1, 4, 4]], [1, 1, 8, 8], mode="linear"), 84, id="resize: linear"),
    ],
)
def test_one_operator_is_allowed_what_wpt_allows(model, allowed):
    assert ulps(model) == pytest.approx(allowed)


def test_long_reductions_grow_as_the_square_root():
    worst, four_times = (ulps(single("MatMul", [[1, k], [k, 1]], [1, 1])) for k in (1024, 4096))
    assert worst == 2048
    assert four_times == pytest.approx(2 * 2048)


def test_shaders_may_be_less_exact_in_sine():
    model = single("Sin", [[4]], [4])
    assert ulps(model, backend="wasm") == 4
    assert ulps(model, backend="webgpu") == ulps(model) == 4096


def chain(blocks, width=64):
    nodes, last = [], "x"
    for i in range(blocks):
        nodes += [
            helper.make_node("MatMul", [last, "w"], [f"m{i}"]),
            helper.make_node("Add", [last, f"m{i}"], [f"r{i}"]),
        ]
        last = f"r{i}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    shape = [2, width]
    return graph(
        nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, shape)}, {"w": np.eye(width, dtype=np.float32) / width}
    )


def test_nodes_add_in_quadrature_and_count_once():
    # 30 residual blocks: an error counted once per path would be 2^30 times too large
    assert ulps(chain(30)) == pytest.approx(math.sqrt(30 * (128**2 + 1)))


def test_only_what_an_output_depends_on_counts():
    nodes = [helper.make_node("MatMul", ["a", "b"], ["big"]), helper.make_node("Add", ["c", "c"], ["small"])]
    model = graph(
        nodes,
        {"a": (FLOAT, [2, 500]), "b": (FLOAT, [500, 2]), "c": (FLOAT, [2])},
        {"big": (FLOAT, [2, 2]), "small": (FLOAT, [2])},
    )
    found = tolerance(model)
    assert found["big"].relative == 1000 * ULP
    assert found["small"].relative == ULP


def test_sizes_of_the_call_settle_dynamic_reductions():
    model = single("GlobalAveragePool", [["n", 3, "h", "w"]], ["n", 3, 1, 1])
    assert tolerance(model)["y"].assumed == 1
    settled = tolerance(model, shapes={"x0": (1, 3, 6, 7)})["y"]
    assert settled.assumed == 0
    assert settled.relative == 44 * ULP


def test_names_of_dimensions_are_settled_through_outputs():
    nodes = [helper.make_node("MatMul", ["x", "x_t"], ["s"]), helper.make_node("Softmax", ["s"], ["p"])]
    model = graph(
        [*nodes, helper.make_node("ReduceSum", ["p"], ["y"])],
        {"x": (FLOAT, ["len", 8]), "x_t": (FLOAT, [8, "len"])},
        {"p": (FLOAT, ["len", "len"]), "y": (FLOAT, [1, 1])},
    )
    assert tolerance(model)["y"].assumed == 2
    assert tolerance(model, shapes={"p": (9, 9)})["y"].assumed == 0


def test_bodies_of_control_flow_count_and_tell_the_scale():
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Sigmoid", ["m"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", FLOAT, [2, 4])],
    )
    node = helper.make_node("If", ["cond"], ["y"], then_branch=branch, else_branch=branch)
    model = graph(
        [node],
        {"cond": (TensorProto.BOOL, []), "x": (FLOAT, [2, 50])},
        {"y": (FLOAT, [2, 4])},
        {"w": np.ones((50, 4), np.float32)},
    )
    found = tolerance(model)["y"]
    assert found.relative >= math.hypot(100, 34) * ULP
    assert found.natural == 1.0


def test_local_functions_are_looked_into():
    inner = helper.make_function(
        "mine",
        "Twice",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 17)],
    )
    model = graph(
        [helper.make_node("Twice", ["x", "w"], ["y"], domain="mine")],
        {"x": (FLOAT, [2, 50])},
        {"y": (FLOAT, [2, 4])},
        {"w": np.ones((50, 4), np.float32)},
        functions=[inner],
    )
    assert ulps(model) == 100


def test_an_unknown_operator_counts_as_a_reduction_over_its_longest_axis():
    node = helper.make_node("Mystery", ["x"], ["y"], domain="my.own")
    found = tolerance(graph([node], {"x": (FLOAT, [2, 300])}, {"y": (FLOAT, [2, 4])}))["y"]
    assert found.relative == 600 * ULP
    assert found.assumed == 1


def test_an_lstm_counts_its_width_and_its_steps():
    rng = np.random.default_rng(0)
    hidden, width, steps = 8, 5, 16
    constants = {
        "w": rng.normal(size=(1, 4 * hidden, width)).astype(np.float32),
        "r": rng.normal(size=(1, 4 * hidden, hidden)).astype(np.float32),
    }
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y", "h", "c"], hidden_size=hidden)
    model = graph(
        [node],
        {"x": (FLOAT, [steps, 1, width])},
        {"y": (FLOAT, [steps, 1, 1, hidden]), "h": (FLOAT, [1, 1, hidden]), "c": (FLOAT, [1, 1, hidden])},
        constants,
    )
    found = tolerance(model)
    assert found["y"].relative == pytest.approx((2 * (width + hidden) + 56) * math.sqrt(steps) * ULP)
    assert (found["y"].natural, found["h"].natural, found["c"].natural) == (1.0, 1.0, 0.0)


def test_large_weights_do_not_slow_it_down(tmp_path):
    path = tmp_path / "large.onnx"
    weights = np.zeros((4096, 4096), np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    onnx.save(graph([node], {"x": (FLOAT, [1, 4096])}, {"y": (FLOAT, [1, 4096])}, {"w": weights}), path)
    assert tolerance(path) == tolerance(str(path)) == tolerance(path.read_bytes())


# -- right answers pass -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 3000), spread=st.floats(0, 4))
def test_any_order_of_summation_is_close(seed, k, spread):
    rng = np.random.default_rng(seed)
    a = (rng.normal(size=(4, k)) * np.exp(spread * rng.normal(size=(4, k)))).astype(np.float32)
    b = rng.normal(size=(k, 5)).astype(np.float32)
    model = single("MatMul", [[4, k], [k, 5]], [4, 5])
    order = rng.permutation(k)
    one_by_one = np.zeros((4, 5), np.float32)
    for i in order:
        one_by_one += np.outer(a[:, i], b[i])
    used = assert_close({"y": one_by_one}, native(model, {"x0": a, "x1": b}), model)
    assert used["y"] < 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 500))
def test_within_the_tolerance_passes_and_beyond_fails(seed, k):
    rng = np.random.default_rng(seed)
    model = single("MatMul", [[6, k], [k, 20]], [6, 20])
    reference = rng.normal(size=(6, 20)).astype(np.float32)
    limit = tolerance(model)["y"].relative * scale(reference.astype(np.float64))
    within = reference + rng.uniform(-0.9, 0.9, reference.shape) * limit
    used = assert_close({"y": within}, {"y": reference}, model)
    assert 0.5 < used["y"] <= 0.95
    at = tuple(int(rng.integers(n)) for n in reference.shape)
    within[at] = reference[at] + limit[at] * 1.05
    with pytest.raises(AssertionError, match=rf"1 of 120 elements.*\n.*worst at \[{at[0]}, {at[1]}\]"):
        assert_close({"y": within}, {"y": reference}, model)


def convolutional(rng, kind=np.float32):
    """Three convolutions, a residual, a pool and a classifier."""
    onnx_kind = HALF if kind is np.float16 else FLOAT
    shapes = {
        "w0": (16, 3, 3, 3),
        "b0": (16,),
        "w1": (16, 16, 3, 3),
        "b1": (16,),
        "w2": (32, 16, 1, 1),
        "b2": (32,),
    }
    constants = {n: rng.normal(size=s) / math.sqrt(math.prod(s[1:])) for n, s in shapes.items()}
    constants |= {"w3": rng.normal(size=(32, 10)) / 5, "b3": rng.normal(size=10)}
    constants = {name: value.astype(np.float32).astype(kind) for name, value in constants.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c1", "r0"], ["s1"]),
        helper.make_node("Conv", ["s1", "w2", "b2"], ["c2"]),
        helper.make_node("Sigmoid", ["c2"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"]),
    ]
    outputs = {"logits": (onnx_kind, [1, 10]), "map": (onnx_kind, [1, 32, 12, 12])}
    return graph(nodes, {"x": (onnx_kind, [1, 3, 12, 12])}, outputs, constants)


def reordered(model, inputs):
    """The model's own arithmetic in float32, each sum in another order than onnxruntime's."""
    c = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def conv(x, w, b, pad):
        x = np.pad(x[0], ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(1, 2))
        y = np.zeros((w.shape[0], *windows.shape[1:3]), np.float32)
        for index in reversed(list(np.ndindex(w.shape[1:]))):
            y += w[(slice(None), *index)][:, None, None] * windows[index[0], :, :, index[1], index[2]]
        return (y + b[:, None, None])[None]

    r0 = np.maximum(conv(inputs["x"], c["w0"], c["b0"], 1), 0)
    s1 = conv(r0, c["w1"], c["b1"], 1) + r0
    z = 1 / (1 + np.exp(-conv(s1, c["w2"], c["b2"], 0)))
    return {"map": z, "logits": z.mean(axis=(2, 3)) @ c["w3"] + c["b3"]}


@pytest.mark.parametrize("seed", range(5))
def test_a_network_computed_otherwise_is_close(seed):
    rng = np.random.default_rng(seed)
    model = convolutional(rng)
    inputs = {"x": rng.normal(size=(1, 3, 12, 12)).astype(np.float32)}
    used = assert_close(reordered(model, inputs), native(model, inputs), model)
    assert max(used.values()) < 0.3


def test_half_precision_is_judged_as_half_precision():
    single_precision, half = (
        convolutional(np.random.default_rng(1), kind) for kind in (np.float32, np.float16)
    )
    x = np.random.default_rng(2).normal(size=(1, 3, 12, 12)).astype(np.float16)
    reference = native(single_precision, {"x": x.astype(np.float32)})
    outputs = native(half, {"x": x})
    assert outputs["map"].dtype == np.float16
    assert_close(outputs, reference, half)
    assert_close(outputs, reference, single_precision, precision="float16")
    with pytest.raises(AssertionError, match="elements differ"):
        assert_close(outputs, reference, single_precision)


def test_half_precision_is_no_excuse_for_a_wrong_answer():
    half = convolutional(np.random.default_rng(1), np.float16)
    outputs = native(half, {"x": np.random.default_rng(2).normal(size=(1, 3, 12, 12)).astype(np.float16)})
    wrong = {**outputs, "map": np.roll(outputs["map"], 1, axis=3)}
    with pytest.raises(AssertionError, match="map"):
        assert_close(wrong, outputs, half)


@pytest.mark.parametrize("terms", [16, 64, 256, 768, 1024, 3072])
@pytest.mark.parametrize("signs", ["of either sign", "positive"])
def test_sums_in_half_precision_are_allowed_for_and_not_much_more(terms, signs):
    """One product after the other, each rounded: no implementation is worse."""
    rng = np.random.default_rng(terms)
    a, b = rng.normal(size=(8, terms)), rng.normal(size=(terms, 32)) / math.sqrt(terms)
    if signs == "positive":
        a, b = np.abs(a), np.abs(b)
    a, b = a.astype(np.float16), b.astype(np.float16)
    total = np.zeros((8, 32), np.float16)
    for k in range(terms):
        total += a[:, k : k + 1] * b[k : k + 1]
    model = single("MatMul", [[8, terms]], [8, 32], {"b": b}, kind=HALF)
    exact = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float16)
    used = assert_close({"y": total}, {"y": exact}, model, inputs={"x0": a})["y"]
    assert used > 0.05


def test_half_precision_excuses_no_answer_of_another_size():
    """However many layers round."""
    rng = np.random.default_rng(0)
    width, constants, nodes, last = 256, {"g": np.ones(256, np.float16)}, [], "x"
    constants["w"] = (rng.normal(size=(width, width)) / 16).astype(np.float16)
    for layer in range(96):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{layer}"]))
        nodes.append(helper.make_node("LayerNormalization", [f"m{layer}", "g"], [f"n{layer}"]))
        last = f"n{layer}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    model = graph(nodes, {"x": (HALF, [1, width])}, {"y": (HALF, [1, width])}, constants)
    inputs = {"x": rng.normal(size=(1, width)).astype(np.float16)}
    reference = native(model, inputs)
    assert tolerance(model)["y"].relative == 0.25
    for wrong in (np.zeros_like(reference["y"]), reference["y"][:, ::-1]):
        with pytest.raises(AssertionError, match="elements differ by more than rounding explains"):
            assert_close({"y": wrong}, reference, model, inputs=inputs)


def test_bfloat16_and_double_are_compared():
    for kind, dtype in ((TensorProto.BFLOAT16, ml_dtypes.bfloat16), (DOUBLE, np.float64)):
        model = single("Add", [[4], [4]], [4], kind=kind)
        values = np.array([1, 2, 3, 4], dtype)
        assert_close({"y": values}, {"y": values.astype(np.float64)}, model)
        with pytest.raises(AssertionError):
            assert_close({"y": values + dtype(1)}, {"y": values}, model)
    assert tolerance(model)["y"].relative == 2.0**-52


def test_a_small_probability_is_judged_on_the_scale_of_its_sigmoid():
    model = single("Sigmoid", [[1]], [1])
    reference = {"y": np.array([0.002], np.float32)}
    assert_close({"y": reference["y"] + np.float32(2e-6)}, reference, model)
    with pytest.raises(AssertionError):
        assert_close({"y": reference["y"] + np.float32(2e-5)}, reference, model)


def test_a_result_that_cancels_its_bias_is_judged_on_the_scale_of_the_bias():
    model = single("Gemm", [[1, 8], [8, 1]], [1, 1], {"c": np.array([3.0], np.float32)})
    assert_close({"y": np.array([[2e-6]])}, {"y": np.array([[1e-6]])}, model)


def loudness(rng):
    """Levels in decibels of 40 bands, most of them silent: only what rounding leaves is heard there."""
    samples = 2048
    t = np.arange(samples) / samples
    waves = np.stack([np.cos(2 * np.pi * (10 + band) * t) for band in range(40)], axis=1)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Mul", ["m", "m"], ["power"]),
        helper.make_node("Add", ["power", "floor"], ["p"]),
        helper.make_node("Log", ["p"], ["y"]),
    ]
    constants = {"w": waves.astype(np.float32), "floor": np.float32(1e-12)}
    model = graph(nodes, {"x": (FLOAT, [1, samples])}, {"y": (FLOAT, [1, 40])}, constants)
    return model, {"x": np.cos(2 * np.pi * 25 * t)[None].astype(np.float32)}


def test_a_model_that_amplifies_rounding_is_judged_by_how_much():
    model, inputs = loudness(np.random.default_rng(0))
    reference = native(model, inputs)
    weights = numpy_helper.to_array(model.graph.initializer[0])
    total = np.zeros((1, 40), np.float32)
    for i in reversed(range(weights.shape[0])):
        total += inputs["x"][:, i : i + 1] * weights[i]
    other = {"y": np.log(total * total + np.float32(1e-12))}
    assert_close(other, reference, model, inputs=inputs)
    with pytest.raises(AssertionError, match="sensitivity was not measured: pass inputs="):
        assert_close(other, reference, model)


def test_amplified_rounding_does_not_excuse_a_defect():
    rng = np.random.default_rng(1)
    model = convolutional(rng)
    inputs = {"x": rng.normal(size=(1, 3, 12, 12)).astype(np.float32)}
    reference = native(model, inputs)
    for factor in (0.0, 0.99, 1.01):
        with pytest.raises(AssertionError, match="disagrees"):
            assert_close({**reference, "map": factor * reference["map"]}, reference, model, inputs=inputs)


def jumping(kind):
    """A model whose answer jumps with its inputs: each is a whole number that is compared, or cast, inside."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(32, 32)).astype(np.float32)
    if kind == "a mask that is compared":
        nodes = [
            helper.make_node("Equal", ["mask", "one"], ["on"]),
            helper.make_node("MatMul", ["x", "w"], ["v"]),
            helper.make_node("Where", ["on", "v", "zero"], ["y"]),
        ]
        taken = {"x": (FLOAT, ["n", 32]), "mask": (FLOAT, ["n", 1])}
        constants = {"w": w, "one": np.float32(1), "zero": np.float32(0)}
        inputs = {"x": rng.normal(size=(8, 32)), "mask": np.ones((8, 1))}
    else:
        nodes = [
            helper.make_node("Cast", ["t"], ["i"], to=TensorProto.INT64),
            helper.make_node("Gather", ["e", "i"], ["v"]),
            helper.make_node("MatMul", ["v", "w"], ["y"]),
        ]
        taken = {"t": (FLOAT, ["n"])}
        constants = {"w": w, "e": rng.normal(size=(100, 32)).astype(np.float32)}
        inputs = {"t": np.arange(1, 9)}
    model = graph(nodes, taken, {"y": (FLOAT, ["n", 32])}, constants)
    return model, {name: value.astype(np.float32) for name, value in inputs.items()}


@pytest.mark.parametrize("kind", ["a mask that is compared", "a number that is cast"])
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(np.zeros_like, id="zeros"),
        pytest.param(np.negative, id="negated"),
        pytest.param(lambda y: y[::-1], id="in another order"),
    ],
)
def test_an_answer_that_jumps_does_not_excuse_another(kind, wrong):
    model, inputs = jumping(kind)
    reference = native(model, inputs)
    with pytest.raises(AssertionError, match="the most that is; one ULP in the inputs makes more"):
        assert_close({"y": wrong(reference["y"])}, reference, model, inputs=inputs)


def test_what_is_moved_often_or_put_together_often_takes_no_time():
    moves = [helper.make_node("Identity", [f"i{n - 1}" if n else "x"], [f"i{n}"]) for n in range(1500)]
    doubles = [
        helper.make_node("Concat", [f"c{n - 1}" if n else "i1499"] * 2, [f"c{n}"], axis=0) for n in range(60)
    ]
    sums = helper.make_node("Sigmoid", ["c59"], ["y"])
    model = graph(
        [*moves, *doubles, sums], {"x": (FLOAT, [1, 1])}, {"c59": (FLOAT, None), "y": (FLOAT, None)}
    )
    found = tolerance(model)
    assert (found["c59"].natural, found["c59"].relative) == (0.0, 0.0)
    assert found["y"].natural == 1.0


def test_a_circle_of_moves_ends():
    nodes = [helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["b"], ["a"])]
    assert tolerance(graph(nodes, {}, {"a": (FLOAT, [1])}))["a"].relative == 0.0


# -- wrong answers do not -----------------------------------------------------------------------------------


DEFECTS = {
    "one element is zero": lambda y: np.where(np.arange(y.size).reshape(y.shape) == y.size // 2, 0, y),
    "a third is zero, as in a recurrent state that was seen": lambda y: np.where(
        np.arange(y.size).reshape(y.shape) % 3 == 0, 0, y
    ),
    "columns are swapped": lambda y: np.flip(y, axis=-1),
    "channels are swapped": lambda y: np.flip(y, axis=1),
    "one in a thousand too large": lambda y: y * 1.001,
    "rounded to half precision": lambda y: y.astype(np.float16).astype(np.float32),
    "not a number": lambda y: np.where(y == y.max(), np.nan, y),
    "infinite": lambda y: np.where(y == y.max(), np.inf, y),
    "another shape": lambda y: y[0],
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect):
    rng = np.random.default_rng(3)
    model = convolutional(rng)
    reference = native(model, {"x": rng.normal(size=(1, 3, 12, 12)).astype(np.float32)})
    with pytest.raises(AssertionError, match=r"disagrees with the reference on 1 of 2 outputs\n  map"):
        assert_close({**reference, "map": DEFECTS[defect](reference["map"])}, reference, model)


@pytest.mark.parametrize("name", ["b0", "w1", "b2", "w3"])
def test_a_wrong_weight_is_found(name):
    rng = np.random.default_rng(4)
    model = convolutional(rng)
    inputs = {"x": rng.normal(size=(1, 3, 12, 12)).astype(np.float32)}
    reference = native(model, inputs)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] *= 0.9
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    with pytest.raises(AssertionError, match="disagrees"):
        assert_close(native(model, inputs), reference, model)


def test_a_channel_of_scores_is_not_judged_by_a_channel_of_pixels():
    model = single("Concat", [[1, 4, 900], [1, 2, 900]], [1, 6, 900], axis=1)
    model.graph.node[0].input[0] = "pixels"
    model.graph.node.insert(0, helper.make_node("Mul", ["x0", "x0"], ["pixels"]))
    model.graph.node.insert(0, helper.make_node("ReduceSum", ["x1"], ["unused"]))
    rng = np.random.default_rng(5)
    reference = np.concatenate([rng.uniform(0, 640, (1, 4, 900)), rng.uniform(0, 1, (1, 2, 900))], axis=1)
    outputs = reference.copy()
    outputs[0, 0, 7] += 3e-5  # under one ULP of 640
    assert_close({"y": outputs}, {"y": reference}, model)
    outputs[0, 5, 7] += 3e-5
    with pytest.raises(AssertionError, match=r"worst at \[0, 5, 7\]"):
        assert_close({"y": outputs}, {"y": reference}, model)


def test_what_only_moves_values_must_be_equal():
    model = single("Transpose", [[4, 2]], [2, 4])
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert assert_close({"y": values}, {"y": values}, model) == {"y": 0.0}
    with pytest.raises(AssertionError, match="nothing on the way rounds"):
        assert_close({"y": np.nextafter(values, 9)}, {"y": values}, model)


def test_not_a_number_must_be_where_it_should():
    model = single("Sqrt", [[3]], [3])
    reference = {"y": np.array([np.nan, np.inf, 1], np.float32)}
    assert_close(reference, reference, model)
    with pytest.raises(AssertionError, match=r"NaN at 0 places instead of 1\n.*first at \[0\]"):
        assert_close({"y": np.array([0, np.inf, 1], np.float32)}, reference, model)
    with pytest.raises(AssertionError, match=r"\+infinity at 0 places instead of 1"):
        assert_close({"y": np.array([np.nan, -np.inf, 1], np.float32)}, reference, model)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (np.array([1, 2, 3]), np.array([1, 2, 4])),
        (np.array([True, False, True]), np.array([True, True, True])),
        (np.array(["a", "b", "ü"], object), np.array(["a", "b", "u"], object)),
        (np.array([2**63 - 1, 0, 1]), np.array([2**63 - 2, 0, 1])),
    ],
)
def test_integers_booleans_and_strings_must_be_equal(right, wrong):
    model = single("Identity", [[3]], [3])
    assert_close({"y": right}, {"y": right.copy()}, model)
    with pytest.raises(AssertionError, match="1 of 3 elements differ, and these must be equal"):
        assert_close({"y": wrong}, {"y": right}, model)


def test_integers_do_not_pass_for_floats():
    model = single("Identity", [[2]], [2])
    with pytest.raises(AssertionError, match="the type is int64 instead of float32"):
        assert_close({"y": np.array([1, 2])}, {"y": np.array([1, 2], np.float32)}, model)


def quantised(rng):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=1),
    ]
    constants = {
        "w": rng.normal(size=(64, 9)).astype(np.float32),
        "scale": np.float32(0.3),
        "zero": np.uint8(128),
    }
    outputs = {
        "q": (TensorProto.UINT8, [5, 9]),
        "y": (FLOAT, [5, 9]),
        "best": (TensorProto.INT64, [5, 1]),
    }
    return graph(nodes, {"x": (FLOAT, [5, 64])}, outputs, constants)


def test_a_quantised_output_may_be_a_step_off():
    rng = np.random.default_rng(6)
    model = quantised(rng)
    reference = native(model, {"x": rng.normal(size=(5, 64)).astype(np.float32)})
    allowed = tolerance(model)
    assert (allowed["q"].steps, allowed["best"].steps) == (2, 0)
    assert_close({**reference, "q": reference["q"] + np.uint8(1)}, reference, model)
    with pytest.raises(AssertionError, match="2 steps of a quantised output"):
        assert_close({**reference, "q": reference["q"] + np.uint8(3)}, reference, model)
    with pytest.raises(AssertionError, match=r"best.*must be equal"):
        assert_close({**reference, "best": reference["best"] + 1}, reference, model)


def test_dynamic_quantisation_may_round_halves_otherwise():
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    weights = rng.integers(-60, 60, size=(64, 9)).astype(np.int8)
    model = graph(nodes, {"x": (FLOAT, [5, 64])}, {"y": (FLOAT, [5, 9])}, {"w": weights})
    # the range is 255, so the step is 1, and a few values lie halfway between two steps
    x = rng.integers(-100, 100, size=(5, 64)).astype(np.float32)
    x[0, :2] = -127, 128
    x[:, 5:8] += 0.5
    reference = native(model, {"x": x})
    otherwise = np.floor(x + 0.5) @ weights.astype(np.float32)
    assert (otherwise != reference["y"]).any()
    assert_close({"y": otherwise}, reference, model)
    with pytest.raises(AssertionError):
        assert_close({"y": 1.05 * otherwise}, reference, model)


def test_empty_outputs_agree():
    model = single("Add", [[0, 3], [0, 3]], [0, 3])
    assert assert_close({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}, model) == {"y": 0.0}


# -- what is said -------------------------------------------------------------------------------------------


def handle(path: Path, **attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(path=path, **attributes)


def test_the_message_says_what_where_and_how_much(tmp_path):
    path = tmp_path / "vad.onnx"
    onnx.save(single("MatMul", [[2, 50], [50, 4]], [2, 4]), path)
    ran = handle(
        path,
        label="models/vad.onnx",
        backend="webgpu",
        browser=SimpleNamespace(name="chromium", version="156.0"),
    )
    reference = {"y": np.full((2, 4), 2.0, np.float32)}
    outputs = {"y": reference["y"].copy()}
    outputs["y"][1, 2] = 0
    outputs["y"][0, 1] = 2.5
    with pytest.raises(AssertionError) as raised:
        assert_close(outputs, reference, ran)
    assert str(raised.value).splitlines() == [
        "models/vad.onnx on webgpu in chromium 156.0 disagrees with the reference on 1 of 1 outputs",
        "  y (float32[2, 4]): 2 of 8 elements differ by more than rounding explains, 1 of them are 0",
        "    worst at [1, 2]: 0 instead of 2",
        "    seen 2, allowed 2.38e-05 (8.39e+04 times as much)",
        "    allowed: 1.2e-05 of the scale, from 1 nodes that round; most: MatMul only 1.2e-05",
        "  the model's sensitivity was not measured: pass inputs= for that",
    ]


def test_what_the_handle_ran_last_settles_sizes_and_sensitivity(tmp_path):
    path = tmp_path / "pool.onnx"
    onnx.save(single("GlobalAveragePool", [["n", 3, "h", "w"]], ["n", 3, 1, 1]), path)
    inputs = {"x0": np.ones((1, 3, 6, 7), np.float32)}
    ran = handle(path, backend="wasm", browser=None, last_inputs=inputs)
    with pytest.raises(AssertionError) as raised:
        assert_close({"y": np.full((1, 3, 1, 1), 1.1)}, {"y": np.ones((1, 3, 1, 1))}, ran)
    assert "assumed" not in str(raised.value)
    assert "sensitivity" not in str(raised.value)


def test_a_reference_may_be_what_onnxruntime_returns():
    model = convolutional(np.random.default_rng(0))
    outputs = native(model, {"x": np.zeros((1, 3, 12, 12), np.float32)})
    assert assert_close(outputs, list(outputs.values()), model) == {"logits": 0.0, "map": 0.0}


def test_the_reference_says_what_is_compared():
    model = convolutional(np.random.default_rng(0))
    outputs = native(model, {"x": np.zeros((1, 3, 12, 12), np.float32)})
    assert list(assert_close(outputs, {"map": outputs["map"]}, model)) == ["map"]
    with pytest.raises(InputError, match=r"the reference has 'mop'"):
        assert_close(outputs, {"mop": outputs["map"]}, model)
    with pytest.raises(InputError, match="no outputs"):
        assert_close(outputs, {}, model)
    with pytest.raises(InputError, match=r"no output 'other'.*\n.*\n.*logits, map"):
        assert_close({"other": outputs["map"]}, {"other": outputs["map"]}, model)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ([], "the reference is a list of 0, the outputs are y"),
        ([np.ones(4)] * 2, "the reference is a list of 2, the outputs are y"),
        (np.ones((1, 4), np.float32), r"a ndarray of shape \[1, 4\].*\n.*\n.*give {\"y\": array}"),
        (None, "the reference is a NoneType"),
        ("y", "the reference is a str"),
        ({"y": [[1], [1, 2]]}, "the reference of 'y' is no array: .*inhomogeneous"),
    ],
)
def test_a_reference_that_is_none_of_this_model_s_is_named(reference, said):
    model = single("Relu", [[1, 4]], [1, 4])
    with pytest.raises(InputError, match=said):
        assert_close({"y": np.ones((1, 4), np.float32)}, reference, model)


def test_outputs_have_names():
    with pytest.raises(InputError, match="the outputs are a list"):
        assert_close([np.ones(4)], [np.ones(4)], single("Relu", [[4]], [4]))


def test_a_model_that_draws_random_numbers_is_refused():
    model = graph(
        [helper.make_node("RandomNormalLike", ["x"], ["y"])], {"x": (FLOAT, [3])}, {"y": (FLOAT, [3])}
    )
    with pytest.raises(SourceError, match="draws random numbers"):
        tolerance(model)


def test_a_file_that_is_replaced_with_its_size_and_time_is_read_again(tmp_path):
    path = tmp_path / "m.onnx"
    found = []
    for length in (64, 96):
        model = single("MatMul", [[3, length], [length, 4]], [3, 4])
        path.write_bytes(model.SerializeToString())
        os.utime(path, (1e9, 1e9))
        found.append(tolerance(path))
    assert found[0] != found[1]


def test_bad_models_are_named(tmp_path):
    with pytest.raises(SourceError, match="no file"):
        tolerance(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(InvalidModel, match=r"text\.onnx"):
        tolerance(tmp_path / "text.onnx")
    with pytest.raises(InvalidModel, match="7 bytes"):
        tolerance(b"not one")
    with pytest.raises(SourceError, match="a int is not a model"):
        tolerance(3)
    with pytest.raises(InputError, match="precision is 'half'"):
        tolerance(tmp_path / "text.onnx", precision="half")


def test_importing_it_is_cheap():
    heavy = "{'numpy', 'onnx', 'google'} & set(sys.modules)"
    code = f"import sys, pytest_browserpool.compare; print(sorted({heavy}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
