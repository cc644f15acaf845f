"""How long an operator takes, estimated from shapes: the larger of arithmetic and memory traffic, plus a
constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = Sequence[int]


@dataclass(frozen=True)
class Machine:
    """Rates of a host: floating-point operations per second, bytes per second, seconds for each node."""

    flops: float
    bytes: float
    overhead: float


REFERENCE = Machine(flops=2.2e10, bytes=6e9, overhead=4e-6)
"""A host of speed 1: onnxruntime-web's wasm provider on one thread of the machine that the facts were
measured on (angle classifier 4.1 ms, detector at 320² 118 ms in Chromium). Only ratios matter to where a cut
falls; transfers are weighed against it, so measured costs are better where there are any."""

FREE = frozenset(
    {
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Shape",
        "Size",
        "Dropout",
        "SequenceEmpty",
        "Optional",
    }
)
"""Operators that move no data: views, and what only looks at shapes."""

PICKING = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Operators that read only as much of their first input as they return: an embedding's table is not read
through.
"""

HEAVY_PER_ELEMENT: Mapping[str, float] = {
    name: work
    for work, names in {
        30.0: "Mish",
        25.0: "Gelu FastGelu",
        20.0: "Softmax LogSoftmax Erf Tanh Pow Sin Cos Softplus",
        16.0: "Swish QuickGelu",
        15.0: "Exp Log Sigmoid",
        14.0: "SkipLayerNormalization",
        12.0: "LayerNormalization InstanceNormalization GroupNormalization",
        10.0: "RMSNormalization SimplifiedLayerNormalization",
        8.0: "Resize Upsample",
        4.0: "HardSwish",
    }.items()
    for name in names.split()
}
"""Operations per element of the output, counting a transcendental as about fifteen."""

CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvInteger", "QLinearConv", "NhwcConv"})
PRODUCTS = frozenset(
    {
        "MatMul",
        "MatMulInteger",
        "QLinearMatMul",
        "FusedMatMul",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "TransposeMatMul",
    }
)
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def flops(
    op: str, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None], attributes: Mapping[str, Any]
) -> float:
    """Arithmetic of one node. Shapes are None where unknown, which counts as no work.

    A convolution: 2 · outputs · (Cin / groups) · kernel. A matrix product: 2 · outputs · K. A recurrent cell:
    2 · steps · batch · (elements of W and R).
    """
    name = op.rpartition(".")[2]
    result = prod(outputs[0]) if outputs and outputs[0] is not None else 0
    shapes = [*inputs, None, None, None]
    first, second, third = shapes[0], shapes[1], shapes[2]
    if name in CONVOLUTIONS:
        weights = shapes[3] if name == "QLinearConv" else second
        return 2.0 * result * (prod(weights[1:]) if weights else 0)
    if name == "ConvTranspose" and first and second:
        return 2.0 * prod(first) * prod(second[1:])
    if name in PRODUCTS and first:
        return 2.0 * result * first[-1]
    if name == "Gemm" and first:
        return 2.0 * result * first[0 if attributes.get("transA") else -1]
    if name == "MatMulNBits":
        return 2.0 * result * int(attributes.get("K", 0))
    if name in RECURRENT and first and second and third:
        return 2.0 * prod(first[:2]) * (prod(second) + prod(third))
    if name in ("MaxPool", "AveragePool", "LpPool"):
        return float(result * prod(attributes.get("kernel_shape", (1,))))
    if name.startswith("Reduce") or name in ("GlobalAveragePool", "GlobalMaxPool", "ArgMax", "ArgMin"):
        return float(prod(first)) if first else 0.0
    if name in FREE:
        return 0.0
    return result * HEAVY_PER_ELEMENT.get(name, 1.0)


def moved(op: str, inputs: Sequence[int], outputs: Sequence[int]) -> int:
    """Bytes that a node reads and writes, from the sizes of its inputs and outputs."""
    read = [sum(outputs), *inputs[1:]] if op.rpartition(".")[2] in PICKING else inputs
    return sum(read) + sum(outputs)


def seconds(op: str, work: float, moved: int, machine: Machine = REFERENCE) -> float:
    """Time of a node with ``work`` operations that reads and writes ``moved`` bytes."""
    if op.rpartition(".")[2] in FREE:
        return machine.overhead
    return machine.overhead + max(work / machine.flops, moved / machine.bytes)
