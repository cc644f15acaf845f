"""The same model in plain NumPy, written from the papers and not from the graph: what the graph is checked
against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_browserpool.sharding.llm.config import LlamaConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]


class NumpyLlama:
    """A Llama model that keeps its KV cache. ``weights`` gives tensors by GGUF's names; all are read at
    once.
    """

    def __init__(self, config: LlamaConfig, weights: Callable[[str], Array]) -> None:
        import numpy as np

        self.np, self.config = np, config
        parts = (
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        )
        self.blocks = [{p: weights(f"blk.{b}.{p}.weight") for p in parts} for b in range(config.blocks)]
        self.table, self.last_norm = weights("token_embd.weight"), weights("output_norm.weight")
        empty = np.zeros((config.kv_heads, 0, config.head_size), np.float32)
        self.cache = [(empty, empty) for _ in range(config.blocks)]

    def step(self, tokens: Sequence[int]) -> Array:
        """Logits [vocabulary] after ``tokens``, which extend the cache."""
        np = self.np
        start = self.cache[0][0].shape[1]
        state = self.table[np.asarray(tokens)]
        for number, block in enumerate(self.blocks):
            state = state + self._attention(number, block, self._norm(state, block["attn_norm"]), start)
            normed = self._norm(state, block["ffn_norm"])
            gate = normed @ block["ffn_gate"].T
            state = state + (gate / (1 + np.exp(-gate)) * (normed @ block["ffn_up"].T)) @ block["ffn_down"].T
        logits: Array = self._norm(state[-1], self.last_norm) @ self.table.T
        return logits

    def _norm(self, state: Array, weight: Array) -> Array:
        scaled: Array = (
            state / self.np.sqrt((state**2).mean(-1, keepdims=True) + self.config.epsilon) * weight
        )
        return scaled

    def _attention(self, number: int, block: dict[str, Array], state: Array, start: int) -> Array:
        np, c = self.np, self.config
        new = len(state)

        def heads(weight: Array, count: int) -> Array:
            split: Array = (state @ weight.T).reshape(new, count, c.head_size).transpose(1, 0, 2)
            return split

        query = self._rotate(heads(block["attn_q"], c.heads), start)
        key = np.concatenate(
            [self.cache[number][0], self._rotate(heads(block["attn_k"], c.kv_heads), start)], axis=1
        )
        value = np.concatenate([self.cache[number][1], heads(block["attn_v"], c.kv_heads)], axis=1)
        self.cache[number] = (key, value)
        group = c.heads // c.kv_heads
        key, value = key.repeat(group, axis=0), value.repeat(group, axis=0)
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(c.head_size))
        hidden = np.arange(start + new)[None, :] > np.arange(start, start + new)[:, None]
        scores = np.where(hidden, np.float32("-inf"), scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed: Array = (weights @ value).transpose(1, 0, 2).reshape(new, c.width) @ block["attn_output"].T
        return mixed

    def _rotate(self, state: Array, start: int) -> Array:
        np, half = self.np, self.config.head_size // 2
        positions = np.arange(start, start + state.shape[1])[:, None]
        angles = positions * self.config.rope_base ** (-np.arange(half) / half)
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        a, b = state[..., :half], state[..., half:]
        rotated: Array = np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)
        return rotated
