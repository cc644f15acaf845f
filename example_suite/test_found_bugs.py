"""Defects of onnxruntime-web 1.30 that this suite found, each as the smallest model that shows it.

The tests say what would be right and are expected to fail, strictly: the day one is mended, they say so.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pytest_browserpool import assert_close
from pytest_browserpool.errors import RunFailed

WIDTH = 8
X = {"x": np.random.default_rng(1).normal(size=(1, 1, WIDTH)).astype(np.float32)}


def model_of(
    nodes: list[onnx.NodeProto], outputs: dict[str, list[int]], opset: int = 16, **weights: np.ndarray
) -> onnx.ModelProto:
    """A model from ``x`` [1, 1, 8] to ``outputs``."""
    graph = helper.make_graph(
        nodes,
        "smallest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def recurrent() -> onnx.ModelProto:
    """What is left of Silero VAD: an LSTM's two states, joined, while one of them is used further."""
    dice = np.random.default_rng(0)
    return model_of(
        [
            helper.make_node("LSTM", ["x", "w", "r"], ["", "hidden", "cell"], hidden_size=WIDTH),
            helper.make_node("Concat", ["hidden", "cell"], ["state"], axis=0),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("Neg", ["positive"], ["negative"]),
        ],
        {"negative": [1, 1, WIDTH], "state": [2, 1, WIDTH]},
        w=dice.normal(size=(1, 4 * WIDTH, WIDTH)).astype(np.float32),
        r=dice.normal(size=(1, 4 * WIDTH, WIDTH)).astype(np.float32),
    )


def convolution() -> onnx.ModelProto:
    """A convolution over one axis that leaves ``dilations`` and all else at ONNX's defaults."""
    weights = np.random.default_rng(0).normal(size=(2, 1, 3)).astype(np.float32)
    return model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"y": [1, 2, WIDTH - 2]}, w=weights)


def gelu() -> onnx.ModelProto:
    """The approximation of Gelu that GPT-2 uses."""
    return model_of(
        [helper.make_node("Gelu", ["x"], ["y"], approximate="tanh")], {"y": [1, 1, WIDTH]}, opset=20
    )


def reference(model) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.path).run(None, X)


@pytest.mark.model(recurrent, backends=["wasm"])
def test_both_states_of_an_lstm_are_right_on_wasm(model):
    assert_close(model(X), reference(model), model)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="onnxruntime-web 1.30, webgpu: the cell state is overwritten by relu(hidden) before it is read",
)
@pytest.mark.model(recurrent, backends=["webgpu"], on="each", timeout=120)
def test_both_states_of_an_lstm_are_right_on_webgpu(model, record_property):
    outputs, (_, right) = model(X), reference(model)
    if model.backend != "webgpu":
        pytest.fail(f"ran on {model.backend}")  # not the failure that is expected
    hidden, cell = outputs["state"]
    record_property("placement", str(model.placement))
    record_property("hidden state, largest error", f"{np.abs(hidden - right[0]).max():.1e}")
    record_property("cell state, largest error", f"{np.abs(cell - right[1]).max():.3f}")
    record_property(
        "cell state, largest distance from relu(hidden)", f"{np.abs(cell - np.maximum(hidden, 0)).max():.1e}"
    )
    assert_close(outputs, reference(model), model)


@pytest.mark.model(convolution, backends=["wasm"])
def test_a_convolution_over_one_axis_may_leave_out_dilations_on_wasm(model):
    assert_close(model(X), reference(model), model)


@pytest.mark.xfail(
    strict=True,
    raises=RunFailed,
    reason="onnxruntime-web 1.30, webgpu: Conv over one axis without a dilations attribute is refused when "
    "it runs, though ONNX gives it a default",
)
@pytest.mark.model(convolution, backends=["webgpu"], timeout=120)
def test_a_convolution_over_one_axis_may_leave_out_dilations_on_webgpu(model):
    assert_close(model(X), reference(model), model)


@pytest.mark.model(gelu, backends=["wasm"])
def test_gelu_by_tanh_is_right_on_wasm(model):
    assert_close(model(X), reference(model), model)


GELU_BUG = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="onnxruntime-web 1.30, webgpu and webnn: Gelu ignores approximate='tanh', computes the exact function",
)


@GELU_BUG
@pytest.mark.model(gelu, backends=["webgpu"], timeout=120)
def test_gelu_by_tanh_is_right_on_webgpu(model, record_property):
    gelu_by_tanh_is_right(model, record_property)


@GELU_BUG
@pytest.mark.model(gelu, backends=["webnn"])
def test_gelu_by_tanh_is_right_on_webnn(model, record_property):
    gelu_by_tanh_is_right(model, record_property)


def gelu_by_tanh_is_right(model, record_property):
    outputs, right = model(X), reference(model)
    exact = X["x"] * 0.5 * (1 + np.vectorize(math.erf)(X["x"] / math.sqrt(2)))
    record_property("ran on", model.backend)
    record_property("largest error", f"{np.abs(outputs['y'] - right[0]).max():.1e}")
    record_property("largest distance from the exact function", f"{np.abs(outputs['y'] - exact).max():.1e}")
    assert_close(outputs, right, model)
