"""What models say about themselves, which files are refused, and fixed shapes run natively."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_support import (
    ANGLE,
    BASIC_PITCH,
    MAGIKA,
    MINILM,
    RECOGNISER,
    SILERO,
    example,
    scaling,
    with_external_data,
)
from onnx import TensorProto, helper

from pytest_browserpool.errors import InputError, InvalidModel, SourceError
from pytest_browserpool.models.inspect import (
    Tensor,
    inspect,
    load,
    resolve_shapes,
    static_name,
    with_static_shapes,
)

RUNS: dict[str, dict[str, tuple[int, ...]]] = {
    SILERO: {"input": (1, 576), "state": (2, 1, 128)},
    BASIC_PITCH: {"serving_default_input_2:0": (1, 43844, 1)},
    ANGLE: {"x": (2, 3, 48, 192)},
    RECOGNISER: {"x": (1, 3, 48, 160)},
    MAGIKA: {"bytes": (3, 2048)},
    MINILM: {"input_ids": (2, 7), "attention_mask": (2, 7), "token_type_ids": (2, 7)},
}
NUMPY = {"float": np.float32, "int32": np.int32, "int64": np.int64}


def session(model: bytes | str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def sample(tensor: Tensor, shape: tuple[int, ...]) -> Any:
    random = np.random.default_rng(len(tensor.name))
    if tensor.dtype == "float":
        return random.standard_normal(shape, np.float32)
    return random.integers(0, 2, shape).astype(NUMPY[tensor.dtype])


# -- what a model declares ---


def test_the_example_models_say_what_they_take() -> None:
    silero = inspect(example(SILERO))
    assert silero.inputs == (Tensor("input", "float", (1, 576)), Tensor("state", "float", (2, 1, 128)))
    assert silero.static
    assert ("", "LSTM") in silero.operators
    assert silero.opsets[""] == 16
    angle = inspect(example(ANGLE))
    assert angle.inputs == (Tensor("x", "float", (None, 3, None, None)),)  # -1 and '?' in the file
    assert not angle.static
    recogniser = inspect(example(RECOGNISER))
    # its last axis counts the alphabet, the blank and the space
    assert recogniser.outputs[0].dims is not None
    assert recogniser.outputs[0].dims[-1] == len(recogniser.metadata["character"].split("\n")) + 2
    assert [t.dims for t in inspect(example(MINILM)).inputs] == [("batch", "sequence")] * 3


def test_what_onnxruntime_says_of_inputs_and_outputs_is_the_same() -> None:
    for source in RUNS:
        info, native = inspect(example(source)), session(str(example(source)))
        assert [t.name for t in info.inputs] == [i.name for i in native.get_inputs()]
        assert [t.name for t in info.outputs] == [o.name for o in native.get_outputs()]
        assert [f"tensor({t.dtype})" for t in info.inputs] == [i.type for i in native.get_inputs()]


def test_operators_of_subgraphs_count_and_initializers_are_no_inputs() -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])
        return helper.make_graph([helper.make_node(operator, ["x"], [name])], name, [], [out])

    node = helper.make_node(
        "If", ["cond"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg")
    )
    inputs = [
        helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [1]),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph([node], "g", inputs, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    info = inspect(model.SerializeToString())
    assert info.operators == {("", "If"), ("", "Relu"), ("", "Neg")}
    assert [str(t) for t in info.inputs] == ["cond: bool []", "x: float [n]"]
    fixed = with_static_shapes(model.SerializeToString(), {"x": (4,)})
    x = np.array([-1, 2, -3, 4], np.float32)
    (result,) = session(fixed).run(None, {"cond": np.array(False), "x": x})
    assert (result == -x).all()


def test_external_data_are_listed_and_not_read(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    (tmp_path / "model.onnx.data").unlink()
    assert inspect(path).external == ("model.onnx.data",)


# -- what is refused ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"hello, I am no model", "not an ONNX model"),
        (b"<html><body>404</body></html>", "HTML"),
        (b'{"error": "not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "git lfs pull"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x1c\x00\x00\x00TFL3rest", "TFLite"),
        (b"\x1c\x00\x00\x00ORTMrest", "ORT format"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InvalidModel) as caught:
        inspect(tmp_path / "m.onnx")
    assert said in str(caught.value)
    assert str(tmp_path / "m.onnx") in str(caught.value)


def test_a_missing_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        inspect(tmp_path / "nope.onnx")


@pytest.mark.parametrize("source", [SILERO, ANGLE, BASIC_PITCH])
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(source: str, kept: float) -> None:
    data = example(source).read_bytes()
    with pytest.raises(InvalidModel):
        inspect(data[: int(len(data) * kept)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_truncation_passes_for_a_whole_model(data: st.DataObject) -> None:
    whole = scaling().SerializeToString()
    cut = data.draw(st.integers(0, len(whole) - 1))
    try:
        inspect(whole[:cut])
    except InvalidModel:
        return
    session(whole[:cut])  # what we let through, onnxruntime takes too


def test_a_graph_without_nodes_is_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    with pytest.raises(InvalidModel, match="no nodes"):
        inspect(helper.make_model(helper.make_graph([], "g", [value], [value])).SerializeToString())


def test_an_initializer_that_lost_bytes_is_refused() -> None:
    model = scaling()
    model.graph.initializer[0].raw_data = b"\0\0"
    with pytest.raises(InvalidModel, match=r"'factor' of \[1\] has 2 bytes, not 4"):
        inspect(model.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        load(data)


# -- static shapes ---


@pytest.mark.parametrize("source", RUNS, ids=lambda s: s.rpartition("/")[2])
def test_a_model_with_fixed_shapes_gives_the_same_answers(source: str) -> None:
    path = example(source)
    before, shapes = inspect(path), RUNS[source]
    fixed = with_static_shapes(path, shapes)
    after = inspect(fixed)
    assert after.static
    assert {t.name: t.dims for t in after.inputs} == shapes
    assert [(t.name, t.dtype) for t in after.outputs] == [(t.name, t.dtype) for t in before.outputs]
    assert [len(t.dims or ()) for t in after.outputs] == [len(t.dims or ()) for t in before.outputs]
    inputs = {t.name: sample(t, shapes[t.name]) for t in before.inputs}
    expected = session(str(path)).run(None, inputs)
    actual = session(fixed).run(None, inputs)
    for old, new in zip(expected, actual, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_fixed_shapes_are_known_to_onnxruntime_all_the_way() -> None:
    native = session(with_static_shapes(example(ANGLE), {"x": (1, 3, 48, 192)}))
    assert native.get_inputs()[0].shape == [1, 3, 48, 192]
    assert native.get_outputs()[0].shape == [1, 2]
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        native.run(None, {"x": np.zeros((1, 3, 48, 200), np.float32)})


def test_zero_sizes_and_scalars_are_shapes() -> None:
    fixed = with_static_shapes(scaling().SerializeToString(), {"x": (0, 3)})
    (result,) = session(fixed).run(None, {"x": np.zeros((0, 3), np.float32)})
    assert result.shape == (0, 3)
    scalar = with_static_shapes(scaling(dims=()).SerializeToString(), {"x": ()})
    assert inspect(scalar).inputs[0].dims == ()


def test_an_input_of_unknown_rank_takes_any_shape() -> None:
    model = scaling()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert inspect(model.SerializeToString()).inputs[0].dims is None
    fixed = with_static_shapes(model.SerializeToString(), {"x": (2, 3)})
    assert inspect(fixed).inputs[0].dims == (2, 3)


def test_symbols_carry_over_to_inputs_that_were_left_out() -> None:
    fixed = with_static_shapes(example(MINILM), {"input_ids": (1, 9)})
    assert [t.dims for t in inspect(fixed).inputs] == [(1, 9)] * 3


@pytest.mark.parametrize(
    ("source", "shapes", "said"),
    [
        (ANGLE, {"y": (1, 3, 48, 192)}, "no input 'y'"),
        (ANGLE, {}, "no shape for input 'x'"),
        (ANGLE, {"x": (1, 3, 48)}, "has rank 3, not 4"),
        (ANGLE, {"x": (1, 1, 48, 192)}, "axis 1 of input 'x' is 1, but the model fixes it to 3"),
        (ANGLE, {"x": (-1, 3, 48, 192)}, "negative size"),
        (
            MINILM,
            {"input_ids": (1, 9), "attention_mask": (1, 8)},
            "'sequence' is 8 in 'attention_mask' axis 1, but 9",
        ),
        (MINILM, {"input_idz": (1, 9)}, "did you mean 'input_ids'"),
    ],
)
def test_shapes_that_contradict_the_model_are_refused(
    source: str, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        with_static_shapes(example(source), shapes)
    assert said in str(caught.value)
    assert str(example(source)) in str(caught.value)


def test_external_data_stay_where_they_are(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    fixed = with_static_shapes(path, {})
    assert inspect(fixed).external == ("model.onnx.data",)
    (tmp_path / "fixed.onnx").write_bytes(fixed)
    (result,) = session(str(tmp_path / "fixed.onnx")).run(None, {"x": np.zeros(4096, np.float32)})
    assert (result == np.arange(4096)).all()


def test_shapes_can_be_resolved_without_rewriting() -> None:
    info = inspect(example(MAGIKA))
    assert resolve_shapes(info, {"bytes": (5, 2048)}) == {"bytes": (5, 2048)}


def test_a_model_of_many_inputs_has_a_file_name_for_its_fixed_shapes(tmp_path: Path) -> None:
    """All sizes stood in the name: 63 inputs, as a language model with its cache has, were too many for a file system."""
    names = [f"past_key_values.{i}.key" for i in range(63)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, "past", 64]) for name in names
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Concat", names, ["y"], axis=2)], "many", inputs, [output])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    shapes = dict.fromkeys(names, (1, 3, 16, 64))
    path = tmp_path / static_name("a" * 64, shapes)
    path.write_bytes(with_static_shapes(made.SerializeToString(), shapes))
    assert inspect(path).static
    assert static_name("a" * 64, dict(reversed(shapes.items()))) == path.name
    others = [
        {**shapes, names[5]: (1, 3, 17, 64)},
        {"x": (1, 2), "y": (3,)},
        {"x": (1,), "y": (2, 3)},
        {"z": (3,)},
    ]
    others += [{"y": (1, 2), "x": (3,)}, {}]
    assert len({path.name, *(static_name("a" * 64, other) for other in others)}) == 7


def test_what_is_no_tensor_is_given_no_shape() -> None:
    """A shape made a broken tensor out of a sequence."""
    inner = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 4])
    given = helper.make_value_info("s", helper.make_sequence_type_proto(inner))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)
    graph = helper.make_graph([node], "sequence", [given], [output])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = made.SerializeToString()
    with pytest.raises(InputError, match=r"shape \[2, 4\] of input 's', which is no tensor(.|\n)*sequence"):
        with_static_shapes(data, {"s": (2, 4)})
    assert onnx.load_model_from_string(with_static_shapes(data, {})).graph.input[0] == given
