"""Models of 1 MB that differ in their weights, written where the tests find them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH = 512
"""512 × 512 float32 are 1 MiB."""


def weights(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal((WIDTH, WIDTH), np.float32)


def write(directory: Path, count: int) -> None:
    """``count`` models ``NUMBER.onnx``: ``y = x · weights(NUMBER)``."""
    directory.mkdir(parents=True, exist_ok=True)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, WIDTH])
    for number in range(count):
        w = numpy_helper.from_array(weights(number), "w")
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "one", [x], [y], [w])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (directory / f"{number}.onnx").write_bytes(made.SerializeToString())
