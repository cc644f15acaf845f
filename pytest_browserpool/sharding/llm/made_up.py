"""Weights out of nothing for a Llama model of any size: for tests and benchmarks, where the numbers need no sense."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_browserpool.sharding.llm.config import LlamaConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def shape_of(config: LlamaConfig, name: str) -> tuple[int, ...]:
    """Dimensions of the tensor that GGUF calls so (``blk.0.attn_q.weight``), the outputs first.

    Raises:
        KeyError: Llama has no such tensor.
    """
    c = config
    shapes = {
        "token_embd": (c.vocabulary, c.width),
        "output_norm": (c.width,),
        "attn_norm": (c.width,),
        "ffn_norm": (c.width,),
        "attn_q": (c.width, c.width),
        "attn_k": (c.kv_heads * c.head_size, c.width),
        "attn_v": (c.kv_heads * c.head_size, c.width),
        "attn_output": (c.width, c.width),
        "ffn_gate": (c.hidden, c.width),
        "ffn_up": (c.hidden, c.width),
        "ffn_down": (c.width, c.hidden),
    }
    return shapes[name.removesuffix(".weight").rpartition(".")[2]]


def made_up(config: LlamaConfig) -> Callable[[str], NDArray[np.float32]]:
    """``weight(name)`` as ``llama.build`` wants it: random, the same at each call, other ones for each name.

    Products get a spread of 2/√inputs, so that neither activations nor differences between tokens die out.
    """
    import numpy as np

    def weight(name: str) -> NDArray[np.float32]:
        shape = shape_of(config, name)
        spread = 1.0 if len(shape) == 1 else 2.0 / float(shape[1]) ** 0.5
        generator = np.random.default_rng(list(name.encode()))
        return (generator.standard_normal(shape) * spread).astype(np.float32)

    return weight
