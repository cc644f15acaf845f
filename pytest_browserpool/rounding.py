"""How much rounding error each ONNX operator may add: the rules behind ``compare.tolerance``.

Errors are counted in ULP of the operator's own output type, relative to the largest magnitude in that output.
Operators that reduce count by the length of their reduction; the numbers are those that the Web Platform
Tests hold WebNN implementations to (``webnn/resources/utils.js``), and WGSL's accuracy table where shaders
may be worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import NodeProto

Shape = tuple[int | None, ...]

UNKNOWN_REDUCTION = 1024
"""Length taken where a reduction runs over a size that nothing tells: a wide layer, or a 32 × 32 image."""

KNEE = 2048.0
"""ULP of a reduction up to which the worst case counts. Beyond it errors grow as the square root of the
length, as independent roundings do (Higham and Mary 2019): the worst case would excuse anything."""

HALF_KNEE = 1.0
"""The same for types of 16 bits and fewer: the worst case of 500 terms would already exceed the result. Summed one by one in
half precision, which is as bad as it gets, up to 3,072 products stay within; ``tests/test_compare.py`` does it."""

EPSILON: Mapping[str, float] = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8e4m3fn": 2.0**-3,
    "float8e4m3fnuz": 2.0**-3,
    "float8e5m2": 2.0**-2,
    "float8e5m2fnuz": 2.0**-2,
}
"""One ULP of a value, as a share of the largest value with that exponent."""

LEVELS: Mapping[str, int] = {
    "int4": 15,
    "uint4": 15,
    "int8": 255,
    "uint8": 255,
    "int16": 65535,
    "uint16": 65535,
}
"""Steps in the range of a quantised type."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Nothing is computed: values are copied, chosen or compared.
EXACT = _words(
    """
    Abs And ArgMax ArgMin BitShift Ceil Clip Compress Concat ConcatFromSequence Constant ConstantOfShape
    DepthToSpace Dropout Equal Expand EyeLike Flatten Floor Gather GatherElements GatherND GlobalMaxPool
    Greater GreaterOrEqual Hardmax Identity If IsInf IsNaN Less LessOrEqual Loop Max MaxPool MaxUnpool Min Neg
    NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or Pad Range
    ReduceMax ReduceMin Relu Reshape ReverseSequence Round Scan ScatterElements ScatterND SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Shrink Sign Size
    Slice SpaceToDepth Split SplitToSequence Squeeze StringConcat StringNormalizer StringSplit
    TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where Xor
    """
)

# Copies, choices and means of their first input: bounded by what bounds that.
PASS_THROUGH = _words(
    """
    Abs AveragePool Cast Clip Concat DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND
    GlobalAveragePool GlobalMaxPool Identity MaxPool Neg Pad ReduceMax ReduceMean ReduceMin Relu Reshape
    Resize Slice SpaceToDepth Split Squeeze Tile TopK Transpose Unsqueeze
    """
)

# Their results lie in [-1, 1] and are computed from numbers of that size, however small a result is.
BOUNDED = _words(
    """
    Cos Erf HardSigmoid Hardmax Sigmoid Sin Softmax Softsign Tanh
    """
)

RANDOM = _words(
    """
    Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike
    """
)

# ULP of element-wise operators. WPT's numbers; Div, Reciprocal and Sqrt as WGSL allows (2.5 ULP, and what
# Sqrt inherits).
ELEMENTWISE: Mapping[str, float] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "PRelu", "Mod"), 1),
    **dict.fromkeys(("BiasAdd", "LeakyRelu", "HardSigmoid", "DequantizeLinear"), 2),
    **dict.fromkeys(("Div", "Reciprocal", "Sqrt", "Softsign"), 3),
    "HardSwish": 4,
    "BatchNormalization": 6,
    **dict.fromkeys(("Elu", "Selu", "Celu", "Softplus", "Gelu", "FastGelu", "BiasGelu", "QuickGelu"), 18),
    "Tanh": 16,
    **dict.fromkeys(
        ("Exp", "Log", "Pow", "Erf", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"), 32
    ),
    **dict.fromkeys(("Sin", "Cos", "Tan"), 4),
    "Sigmoid": 34,
    **dict.fromkeys(("Swish", "Mish"), 50),
    "RotaryEmbedding": 4,
    "GridSample": 336,
}

# WGSL allows an absolute error of 2^-11 for sin and cos, and 4096 ULP for the inverse functions, which
# build on atan2.
SHADER: Mapping[str, float] = {
    "Sin": 4096,
    "Cos": 4096,
    "Tan": 8192,
    "Asin": 4096,
    "Acos": 4096,
    "Atan": 4096,
}
SHADER_BACKENDS = ("webgpu", "webnn-gpu")


@dataclass
class Typed:
    """What is known of every value of a graph."""

    dtypes: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    """Name → ``TensorProto`` of initialisers and ``Constant`` nodes."""

    def shape(self, node: NodeProto, index: int) -> Shape | None:
        """The shape of input ``index``, None where unknown or absent."""
        return self.shapes.get(node.input[index]) if index < len(node.input) else None

    def dtype(self, node: NodeProto) -> str:
        """The type in which ``node`` computes: that of its first output, float32 where nothing tells."""
        return next((self.dtypes[name] for name in node.output if name in self.dtypes), "float32")


@dataclass(frozen=True)
class Rounding:
    """What one node may add."""

    ulps: float = 0.0
    steps: float = 0.0
    """Steps of a quantised type, instead of ULP."""
    assumed: bool = False
    """Whether the length of its reduction was unknown."""


def rounding(node: NodeProto, typed: Typed, backend: str | None) -> Rounding:
    """The error that ``node`` itself may add to its output.

    Args:
        backend: where it runs; None allows for shaders.
    """
    kind = node.op_type
    if kind in ("QuantizeLinear", "DynamicQuantizeLinear") or kind.startswith("QLinear"):
        return Rounding(steps=1)
    if kind in EXACT:
        return Rounding()
    if kind == "Cast":
        return Rounding(ulps=1 if _narrows(node, typed) else 0)
    if kind in ELEMENTWISE:
        shader = backend is None or backend in SHADER_BACKENDS
        return Rounding(ulps=SHADER.get(kind, ELEMENTWISE[kind]) if shader else ELEMENTWISE[kind])
    rule = REDUCTIONS.get(kind)
    if rule is None:
        return _unknown(node, typed)
    ulps, assumed = rule(node, typed)
    knee = HALF_KNEE if EPSILON.get(typed.dtype(node), 0) > EPSILON["float32"] else KNEE
    if ulps > knee:
        ulps = math.sqrt(ulps * knee)
    return Rounding(ulps=ulps, assumed=assumed, steps=1 if _quantises_activations(node) else 0)


def random(node: NodeProto, typed: Typed) -> bool:
    """Whether ``node`` draws random numbers: also a Dropout that is told to train."""
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in typed.constants:
        import onnx

        return bool(onnx.numpy_helper.to_array(typed.constants[node.input[2]]))
    return node.op_type in RANDOM


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute of ``node``."""
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _narrows(node: NodeProto, typed: Typed) -> bool:
    before, after = typed.dtypes.get(node.input[0], ""), typed.dtype(node)
    return EPSILON.get(after, 0) > EPSILON.get(before, 0) and before in EPSILON


def _quantises_activations(node: NodeProto) -> bool:
    # onnxruntime's accuracy level 4 rounds the activations to int8 before it multiplies
    return node.op_type == "MatMulNBits" and bool(attribute(node, "accuracy_level", 0) == 4)


def _unknown(node: NodeProto, typed: Typed) -> Rounding:
    """An operator without a rule: as if it reduced over the longest axis that it sees."""
    sizes = [d for name in node.input for d in typed.shapes.get(name, ()) if d]
    return Rounding(ulps=max(32, 2 * max(sizes)) if sizes else 2 * UNKNOWN_REDUCTION, assumed=True)


Length = tuple[float, bool]
Rule = Callable[["NodeProto", Typed], Length]


def _known(length: int | None, per_item: float = 1, fixed: float = 0) -> Length:
    assumed = length is None
    return per_item * (UNKNOWN_REDUCTION if length is None else length) + fixed, assumed


def _product(sizes: Shape) -> int | None:
    return None if any(d is None for d in sizes) else math.prod(d for d in sizes if d is not None)


def _axes(node: NodeProto, typed: Typed, rank: int) -> list[int]:
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1] in typed.constants:
        import onnx

        axes = onnx.numpy_helper.to_array(typed.constants[node.input[1]]).tolist()
    return [a % rank for a in axes] if axes else list(range(rank))


def _matmul(node: NodeProto, typed: Typed) -> Length:
    a, b = typed.shape(node, 0), typed.shape(node, 1)
    inner = a[-1] if a else None
    if inner is None and b:
        inner = b[-2] if len(b) > 1 else b[0]
    return _known(inner, 2)


def _gemm(node: NodeProto, typed: Typed) -> Length:
    a, b = typed.shape(node, 0), typed.shape(node, 1)
    inner = a[0 if attribute(node, "transA", 0) else 1] if a else None
    if inner is None and b:
        inner = b[1 if attribute(node, "transB", 0) else 0]
    return _known(inner, 2, 2)


def _conv(node: NodeProto, typed: Typed) -> Length:
    weights = typed.shape(node, 1)
    return _known(_product(weights[1:]) if weights else None, 2, 1)


def _conv_transpose(node: NodeProto, typed: Typed) -> Length:
    weights, groups = typed.shape(node, 1), attribute(node, "group", 1)
    taps = _product((weights[0], *weights[2:])) if weights else None
    return _known(None if taps is None else taps // groups, 2, 1)


def _reduce(per_item: float, fixed: float) -> Rule:
    def rule(node: NodeProto, typed: Typed) -> Length:
        shape = typed.shape(node, 0)
        if shape is None:
            return _known(None, per_item, fixed)
        return _known(_product(tuple(shape[a] for a in _axes(node, typed, len(shape)))), per_item, fixed)

    return rule


def _along_axis(per_item: float, fixed: float, default: int = -1) -> Rule:
    def rule(node: NodeProto, typed: Typed) -> Length:
        # such an operator's output has the shape of its input, and may be an output of the model
        axis, shapes = (
            attribute(node, "axis", default),
            (typed.shape(node, 0), typed.shapes.get(node.output[0])),
        )
        return _known(next((s[axis] for s in shapes if s and s[axis]), None), per_item, fixed)

    return rule


def _trailing(first: int, per_item: float, fixed: float) -> Rule:
    """Reductions over all axes from ``first`` (or the node's ``axis``) to the last."""

    def rule(node: NodeProto, typed: Typed) -> Length:
        shape = typed.shape(node, 0)
        start = attribute(node, "axis", first)
        return _known(_product(shape[start:]) if shape else None, per_item, fixed)

    return rule


def _pool(node: NodeProto, typed: Typed) -> Length:
    return _known(math.prod(attribute(node, "kernel_shape", [UNKNOWN_REDUCTION])), 1, 2)


def _recurrent(gates: float) -> Rule:
    """One step of an LSTM, GRU or RNN, in quadrature over the steps: its gates damp older errors."""

    def rule(node: NodeProto, typed: Typed) -> Length:
        x, hidden = typed.shape(node, 0), attribute(node, "hidden_size", None)
        time_axis = 1 if attribute(node, "layout", 0) else 0
        step, assumed = _known(x[2] + hidden if x and x[2] and hidden else None, 2, gates)
        return step * math.sqrt((x[time_axis] if x else None) or 1), assumed

    return rule


def _attention(node: NodeProto, typed: Typed) -> Length:
    """Scores, softmax and the weighted sum; the length of the sequence is seldom static."""
    shape = typed.shape(node, 0)
    width, assumed = _known(shape[-1] if shape else None, 2)
    length, assumed_too = _known(shape[-2] if shape and len(shape) > 1 else None, 5, 3)
    return width + length, assumed or assumed_too


def _einsum(node: NodeProto, typed: Typed) -> Length:
    left, _, right = attribute(node, "equation", b"").decode().replace(" ", "").partition("->")
    length: int | None = 1
    seen: dict[str, int | None] = {}
    for index, letters in enumerate(left.split(",")):
        shape = typed.shape(node, index)
        seen.update(zip(letters, shape or [None] * len(letters), strict=False))
    for letter, size in seen.items():
        if letter not in right:
            length = None if length is None or size is None else length * size
    return _known(length, 2)


def _resize(node: NodeProto, typed: Typed) -> Length:
    # bilinear as in WPT; bicubic weighs four times as many neighbours
    return {b"nearest": 0.0, b"cubic": 336.0}.get(attribute(node, "mode", b"nearest"), 84.0), False


def _fourier(node: NodeProto, typed: Typed) -> Length:
    shape = typed.shape(node, 0)
    # products with sines and cosines that are rounded themselves
    return _known(max((d for d in shape if d), default=None) if shape else None, 4, 32)


REDUCTIONS: Mapping[str, Rule] = {
    **dict.fromkeys(("MatMul", "FusedMatMul"), _matmul),
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv"), _conv),
    "ConvTranspose": _conv_transpose,
    "MatMulNBits": lambda node, typed: (2.0 * attribute(node, "K", UNKNOWN_REDUCTION), False),
    "Einsum": _einsum,
    "Softmax": _along_axis(3, 3),
    "LogSoftmax": _along_axis(3, 3 + 32),
    "CumSum": _along_axis(1, 0, 0),
    "CumProd": _along_axis(1, 0, 0),
    **dict.fromkeys(("ReduceSum", "ReduceProd", "ReduceL1"), _reduce(1, 0)),
    "ReduceMean": _reduce(1, 2),
    "ReduceSumSquare": _reduce(2, 0),
    "ReduceL2": _reduce(2, 3),
    "ReduceLogSum": _reduce(1, 32),
    "ReduceLogSumExp": _reduce(1, 64),
    "AveragePool": _pool,
    "LpPool": _pool,
    "GlobalAveragePool": _trailing(2, 1, 2),
    "GlobalLpPool": _trailing(2, 2, 32),
    # mean, variance, then a difference, a root and a division of them
    "LayerNormalization": _trailing(-1, 3, 10),
    "SimplifiedLayerNormalization": _trailing(-1, 2, 8),
    "RMSNormalization": _trailing(-1, 2, 8),
    "SkipLayerNormalization": _trailing(-1, 3, 11),
    "SkipSimplifiedLayerNormalization": _trailing(-1, 2, 9),
    "InstanceNormalization": _trailing(2, 3, 10),
    "GroupNormalization": _trailing(1, 3, 10),
    "MeanVarianceNormalization": _trailing(0, 3, 10),
    "LpNormalization": _along_axis(2, 6),
    "LRN": lambda node, typed: (2.0 * attribute(node, "size", UNKNOWN_REDUCTION) + 32, False),
    "LSTM": _recurrent(34 + 16 + 6),
    "GRU": _recurrent(34 + 16 + 6),
    "RNN": _recurrent(16 + 3),
    **dict.fromkeys(("Attention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("DFT", "STFT"), _fourier),
    **dict.fromkeys(("Sum", "Mean"), lambda node, typed: (len(node.input) + 2.0, False)),
}
