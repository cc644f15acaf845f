"""The shape of a Llama-family model, and the names of its ONNX inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

INPUT_IDS, ATTENTION_MASK, POSITION_IDS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
"""The names that transformers.js and Optimum use, so that other programs can run the model too."""


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes of a Llama model, as GGUF metadata gives them."""

    blocks: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    rope_base: float
    epsilon: float
    context: int
    """Positions that the rotary tables cover."""

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def past(self) -> tuple[str, ...]:
        """Names of the inputs that carry the KV cache, [1, kv_heads, past, head_size] each."""
        return tuple(
            f"past_key_values.{block}.{part}" for block in range(self.blocks) for part in ("key", "value")
        )

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the outputs that carry the extended cache, in the order of ``past``."""
        return tuple(f"present.{block}.{part}" for block in range(self.blocks) for part in ("key", "value"))
