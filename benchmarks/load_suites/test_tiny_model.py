"""As many tests as LOAD_TESTS says, each one call of a tiny model that stays warm."""

from __future__ import annotations

import os

import numpy as np
import pytest
from onnx import TensorProto, helper

from pytest_browserpool.fixtures import Model


def doubled() -> bytes:
    """``y = x + x`` on two by two."""
    shape = ("x", TensorProto.FLOAT, [2, 2]), ("y", TensorProto.FLOAT, [2, 2])
    (x, y) = (helper.make_tensor_value_info(*s) for s in shape)
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubled", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.mark.model(doubled, browsers=["chromium"], backends=["wasm"])
@pytest.mark.parametrize("number", range(int(os.environ["LOAD_TESTS"])))
def test_one_call(model: Model, number: int) -> None:
    assert (model({"x": np.full((2, 2), number, np.float32)})["y"] == 2 * number).all()
