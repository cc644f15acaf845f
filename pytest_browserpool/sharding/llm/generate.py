"""Greedy generation with a KV cache over anything that runs the model: a browser, shards, native
onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.generic]]
    Run = Callable[[Tensors], Tensors]


def greedy(run: Run, config: LlamaConfig, prompt: Sequence[int], count: int) -> list[int]:
    """The ``count`` tokens after ``prompt``, each the one with the largest logit."""
    tokens = greedy_steps(run, config, prompt)
    return [next(tokens) for _ in range(count)]


def greedy_steps(run: Run, config: LlamaConfig, prompt: Sequence[int]) -> Iterator[int]:
    """Token after token for ever; one call of ``run`` each, the first with the whole prompt."""
    import numpy as np

    empty = np.zeros((1, config.kv_heads, 0, config.head_size), np.float32)
    cache: Tensors = dict.fromkeys(config.past, empty)
    new, total = list(prompt), len(prompt)
    while True:
        outputs = run({**step_inputs(new, total), **cache})
        token = int(np.argmax(outputs[LOGITS]))
        yield token
        cache = {past: outputs[present] for past, present in zip(config.past, config.present, strict=True)}
        new, total = [token], total + 1


def step_inputs(new: Sequence[int], total: int) -> dict[str, NDArray[np.generic]]:
    """Inputs besides the cache for the ``new`` tokens at the end of ``total``."""
    import numpy as np

    return {
        INPUT_IDS: np.asarray([list(new)], np.int64),
        ATTENTION_MASK: np.ones((1, total), np.int64),
        POSITION_IDS: np.arange(total - len(new), total, dtype=np.int64)[None],
    }
