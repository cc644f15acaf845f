"""Read a Llama model's sizes, weights and vocabulary from a GGUF file; needs the package ``gguf`` (extra
``llm``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.errors import ConfigurationError, InvalidModel
from pytest_browserpool.sharding.llm.config import LlamaConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_POSITIONS = 2048
"""Rotary tables for more positions would only make the file larger: a test generates tens of tokens."""


class GgufLlama:
    """A GGUF file of the ``llama`` architecture. Raises ``InvalidModel`` for another, ``ConfigurationError``
    without gguf.
    """

    def __init__(self, path: Path) -> None:
        try:
            import gguf
        except ImportError as error:
            raise ConfigurationError(
                "the package gguf is not installed, so GGUF weights cannot be read",
                remedy="pip install 'pytest-browserpool[llm]'",
            ) from error
        self._gguf, self.path = gguf, path
        self._reader = gguf.GGUFReader(path)
        if (found := self.field("general.architecture")) != "llama":
            raise InvalidModel(
                f"{path.name} has architecture {found!r}", remedy="give a GGUF file of a Llama model"
            )
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        if "output.weight" in self._tensors:
            raise InvalidModel(
                f"{path.name} has an output matrix of its own", remedy="give a model with tied embeddings"
            )
        self.config = LlamaConfig(
            blocks=int(self.field("llama.block_count")),
            width=int(self.field("llama.embedding_length")),
            heads=int(self.field("llama.attention.head_count")),
            kv_heads=int(self.field("llama.attention.head_count_kv")),
            hidden=int(self.field("llama.feed_forward_length")),
            vocabulary=int(self.field("llama.vocab_size")),
            rope_base=float(self.field("llama.rope.freq_base")),
            epsilon=float(self.field("llama.attention.layer_norm_rms_epsilon")),
            context=min(int(self.field("llama.context_length")), MOST_POSITIONS),
        )

    def field(self, name: str) -> Any:
        """A metadata value. Raises ``InvalidModel`` where the file has none of that name."""
        found = self._reader.get_field(name)
        if found is None:
            raise InvalidModel(f"{self.path.name} has no metadata {name!r}", remedy="fetch the file again")
        return found.contents()

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A weight as float32, output features first, in the order that Hugging Face's models have.

        GGUF interleaves the halves of each query and key head for its rotary embedding; that is undone here.
        """
        import numpy as np

        if name not in self._tensors:
            raise InvalidModel(f"{self.path.name} has no tensor {name!r}", remedy="fetch the file again")
        tensor = self._tensors[name]
        flat = self._gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weights: NDArray[np.float32] = flat.reshape(tuple(int(size) for size in reversed(tensor.shape)))
        for part, heads in (("attn_q", self.config.heads), ("attn_k", self.config.kv_heads)):
            if f".{part}." in name:
                split = weights.reshape(heads, self.config.head_size // 2, 2, weights.shape[1])
                weights = split.swapaxes(1, 2).reshape(weights.shape)
        return weights
