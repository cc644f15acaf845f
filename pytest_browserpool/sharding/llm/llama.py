"""Build the ONNX graph of a Llama model with a KV cache, out of plain operators that every backend has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_browserpool.sharding.llm.config import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    POSITION_IDS,
    LlamaConfig,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Weights = Callable[[str], NDArray[np.float32]]

OPSET = 17
"""The newest whose ReduceMean still has its axes as an attribute, which older WebGPU kernels want."""

IR_VERSION = 8

MASKED = -1e9
"""Added to the score of a key that a query must not see: exp of it is 0 in float32."""

ALIGNMENT = 4096
"""Offsets of weights in the data file, as ONNX advises for mapping."""


def build(config: LlamaConfig, weights: Weights, path: Path) -> None:
    """Write ``path`` and, with the weights, ``path`` + ``.data``. Needs memory for one weight at a time.

    Inputs: ``input_ids`` and ``position_ids`` i64 [1, new], ``attention_mask`` i64 [1, past + new],
    ``past_key_values.N.key`` and ``.value`` f32 [1, kv_heads, past, head_size]. Outputs: ``logits`` f32
    [1, vocabulary] of the last new token, and ``present.N.key`` and ``.value``. ``weights`` gives GGUF's
    tensor names.
    """
    import onnx

    with path.with_name(path.name + ".data").open("wb") as data:
        builder = _Builder(config, weights, data, path.name + ".data")
        builder.model()
        graph = onnx.helper.make_graph(
            builder.nodes, "llama", builder.inputs(), builder.outputs(), initializer=builder.initialisers
        )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    path.write_bytes(model.SerializeToString())


class _Builder:
    def __init__(self, config: LlamaConfig, weights: Weights, data: object, location: str) -> None:
        self.config, self.weights, self.data, self.location = config, weights, data, location
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.scope = ""
        self._labels: set[str] = set()
        self._constants: set[str] = set()

    # what the graph is made of

    def add(
        self, op: str, *inputs: str, name: str = "", count: int = 1, to: str = "", **attributes: object
    ) -> str:
        """A node in the current scope; returns its (first) output."""
        import onnx

        label = f"{self.scope}/{name + '/' if name else ''}{op}"
        if label in self._labels:
            label += f"_{len(self.nodes)}"
        self._labels.add(label)
        outputs = [to or f"{label}_output_{k}" for k in range(count)]
        self.nodes.append(onnx.helper.make_node(op, list(inputs), outputs, name=label, **attributes))
        return outputs[0]

    def constant(self, values: object, name: str, dtype: str) -> str:
        """A small constant, shared by all that ask for the same name."""
        import numpy as np
        import onnx

        if name not in self._constants:
            self._constants.add(name)
            self.initialisers.append(onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, gguf_name: str, name: str, *, transposed: bool = False) -> str:
        """A weight, written to the data file at once."""
        import numpy as np
        import onnx

        values = self.weights(gguf_name)
        values = np.ascontiguousarray(values.T if transposed else values)
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=values.shape)
        self._store(tensor, values)
        return name

    def _store(self, tensor: onnx.TensorProto, values: NDArray[np.float32]) -> None:
        from typing import BinaryIO, cast

        import onnx

        data = cast(BinaryIO, self.data)
        data.write(bytes(-data.tell() % ALIGNMENT))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", data.tell()), ("length", values.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        data.write(values.tobytes())
        self.initialisers.append(tensor)

    # the interface

    def inputs(self) -> list[onnx.ValueInfoProto]:
        from onnx import TensorProto, helper

        cache = [1, self.config.kv_heads, "past", self.config.head_size]
        return [
            helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, [1, "new"]),
            helper.make_tensor_value_info(ATTENTION_MASK, TensorProto.INT64, [1, "total"]),
            helper.make_tensor_value_info(POSITION_IDS, TensorProto.INT64, [1, "new"]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in self.config.past),
        ]

    def outputs(self) -> list[onnx.ValueInfoProto]:
        from onnx import TensorProto, helper

        cache = [1, self.config.kv_heads, "total", self.config.head_size]
        return [
            helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [1, self.config.vocabulary]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in self.config.present),
        ]

    # the model

    def model(self) -> None:
        self.scope = "/model/embed_tokens"
        table = self.weight("token_embd.weight", "model.embed_tokens.weight")
        state = self.add("Gather", table, INPUT_IDS, axis=0)
        self.scope = "/model/rotary_emb"
        cosine, sine = self._rotary()
        self.scope = "/model/mask"
        mask = self._mask()
        for block in range(self.config.blocks):
            state = self._block(block, state, cosine, sine, mask)
        self.scope = "/model/norm"
        last = self.add("Gather", state, self.constant(-1, "last", "int64"), axis=1)
        last = self._norm(last, self.weight("output_norm.weight", "model.norm.weight"))
        self.scope = "/lm_head"
        self.add("Gemm", last, table, to=LOGITS, transB=1)

    def _rotary(self) -> tuple[str, str]:
        """Cosine and sine of each new position, [1, 1, new, head_size / 2], from tables: the same bits in
        every browser.
        """
        import numpy as np

        half = self.config.head_size // 2
        frequencies = self.config.rope_base ** (-np.arange(half, dtype=np.float64) / half)
        angles = np.arange(self.config.context, dtype=np.float64)[:, None] * frequencies
        one = self.constant([1], "axis_1", "int64")
        found = []
        for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
            rows = self.add(
                "Gather", self.constant(table, f"rotary.{name}", "float32"), POSITION_IDS, name=name, axis=0
            )
            found.append(self.add("Unsqueeze", rows, one, name=name))
        return found[0], found[1]

    def _mask(self) -> str:
        """0 where a query may see a key, ``MASKED`` elsewhere, [1, 1, new, total]."""
        total = self.add("Shape", ATTENTION_MASK, start=1, end=2)
        total = self.add("Squeeze", total, self.constant([0], "axis_0", "int64"))
        keys = self.add("Range", self.constant(0, "zero", "int64"), total, self.constant(1, "one", "int64"))
        queries = self.add("Unsqueeze", POSITION_IDS, self.constant([2], "axis_2", "int64"))
        past = self.add("LessOrEqual", keys, queries)
        real = self.add("Greater", ATTENTION_MASK, self.constant(0, "zero", "int64"))
        seen = self.add(
            "And", past, self.add("Unsqueeze", real, self.constant([1], "axis_1", "int64"), name="real")
        )
        mask = self.add(
            "Where", seen, self.constant(0.0, "seen", "float32"), self.constant(MASKED, "masked", "float32")
        )
        return self.add("Unsqueeze", mask, self.constant([1], "axis_1", "int64"), name="heads")

    def _norm(self, state: str, weight: str) -> str:
        """Root mean square norm over the last axis (Zhang and Sennrich, 2019)."""
        mean = self.add("ReduceMean", self.add("Mul", state, state, name="square"), axes=[-1], keepdims=1)
        mean = self.add("Add", mean, self.constant(self.config.epsilon, "epsilon", "float32"))
        return self.add("Mul", self.add("Div", state, self.add("Sqrt", mean)), weight, name="scale")

    def _block(self, block: int, state: str, cosine: str, sine: str, mask: str) -> str:
        layer, tensor = f"model.layers.{block}", f"blk.{block}"
        self.scope = f"/model/layers.{block}/input_layernorm"
        normed = self._norm(
            state, self.weight(f"{tensor}.attn_norm.weight", f"{layer}.input_layernorm.weight")
        )
        self.scope = f"/model/layers.{block}/self_attn"
        mixed = self._attention(block, normed, cosine, sine, mask)
        state = self.add("Add", state, mixed, name="residual")
        self.scope = f"/model/layers.{block}/post_attention_layernorm"
        normed = self._norm(
            state, self.weight(f"{tensor}.ffn_norm.weight", f"{layer}.post_attention_layernorm.weight")
        )
        self.scope = f"/model/layers.{block}/mlp"
        gate = self._project(normed, f"{tensor}.ffn_gate.weight", f"{layer}.mlp.gate_proj")
        up = self._project(normed, f"{tensor}.ffn_up.weight", f"{layer}.mlp.up_proj")
        gate = self.add("Mul", gate, self.add("Sigmoid", gate), name="silu")
        down = self._project(self.add("Mul", gate, up), f"{tensor}.ffn_down.weight", f"{layer}.mlp.down_proj")
        return self.add("Add", state, down, name="residual")

    def _project(self, state: str, tensor: str, name: str) -> str:
        weight = self.weight(tensor, f"{name}.weight", transposed=True)
        return self.add("MatMul", state, weight, name=name.rpartition(".")[2])

    def _attention(self, block: int, state: str, cosine: str, sine: str, mask: str) -> str:
        """Grouped-query attention; a group's queries are stacked, so that keys and values are never
        repeated.
        """
        c, layer, tensor = self.config, f"model.layers.{block}.self_attn", f"blk.{block}"
        query = self._heads(self._project(state, f"{tensor}.attn_q.weight", f"{layer}.q_proj"), c.heads, "q")
        key = self._heads(self._project(state, f"{tensor}.attn_k.weight", f"{layer}.k_proj"), c.kv_heads, "k")
        value = self._heads(
            self._project(state, f"{tensor}.attn_v.weight", f"{layer}.v_proj"), c.kv_heads, "v"
        )
        query, key = self._rotate(query, cosine, sine, "q"), self._rotate(key, cosine, sine, "k")
        past, present = c.past[2 * block : 2 * block + 2], c.present[2 * block : 2 * block + 2]
        key = self.add("Concat", past[0], key, name="k", to=present[0], axis=2)
        value = self.add("Concat", past[1], value, name="v", to=present[1], axis=2)
        grouped = self.constant([1, c.kv_heads, -1, c.head_size], "grouped", "int64")
        query = self.add("Reshape", query, grouped, name="grouped")
        scores = self.add(
            "MatMul", query, self.add("Transpose", key, name="kt", perm=[0, 1, 3, 2]), name="scores"
        )
        scores = self.add("Mul", scores, self.constant(c.head_size**-0.5, "scale", "float32"), name="scaled")
        scores = self.add(
            "Reshape", scores, self.constant([1, c.heads, -1, 0], "by_head", "int64"), name="by_head"
        )
        scores = self.add("Softmax", self.add("Add", scores, mask, name="masked"), axis=-1)
        scores = self.add(
            "Reshape", scores, self.constant([1, c.kv_heads, -1, 0], "by_group", "int64"), name="by_group"
        )
        mixed = self.add("MatMul", scores, value, name="mix")
        mixed = self.add(
            "Reshape", mixed, self.constant([1, c.heads, -1, c.head_size], "split", "int64"), name="split"
        )
        mixed = self.add("Transpose", mixed, name="merge", perm=[0, 2, 1, 3])
        mixed = self.add("Reshape", mixed, self.constant([1, -1, c.width], "merged", "int64"), name="merged")
        return self._project(mixed, f"{tensor}.attn_output.weight", f"{layer}.o_proj")

    def _heads(self, state: str, heads: int, name: str) -> str:
        """[1, new, heads · size] as [1, heads, new, size]."""
        shape = self.constant([1, -1, heads, self.config.head_size], f"{heads}_heads", "int64")
        return self.add(
            "Transpose", self.add("Reshape", state, shape, name=name), name=name, perm=[0, 2, 1, 3]
        )

    def _rotate(self, state: str, cosine: str, sine: str, name: str) -> str:
        """Rotary embedding on halves (Su et al., 2021): (a, b) becomes (a·cos − b·sin, b·cos + a·sin)."""
        half = self.config.head_size // 2
        axis = self.constant([3], "axis_3", "int64")
        bounds = [self.constant([v], f"bound_{v}", "int64") for v in (0, half, self.config.head_size)]
        a = self.add("Slice", state, bounds[0], bounds[1], axis, name=f"{name}_a")
        b = self.add("Slice", state, bounds[1], bounds[2], axis, name=f"{name}_b")
        parts = [
            self.add("Mul", x, y, name=f"{name}_{n}")
            for n, x, y in (("ac", a, cosine), ("bs", b, sine), ("bc", b, cosine), ("as", a, sine))
        ]
        first = self.add("Sub", parts[0], parts[1], name=f"{name}_first")
        second = self.add("Add", parts[2], parts[3], name=f"{name}_second")
        return self.add("Concat", first, second, name=f"{name}_rotated", axis=-1)
