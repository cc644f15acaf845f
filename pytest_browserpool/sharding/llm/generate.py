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
    """Token after token for ever; one call of ``run`` each, the first with the whole prompt. The cache goes along."""
    cache: Tensors = empty_cache(config)

    def carrying(inputs: Tensors) -> Tensors:
        nonlocal cache
        outputs = run({**inputs, **cache})
        cache = {past: outputs[present] for present, past in cache_links(config).items()}
        return outputs

    return greedy_session_steps(carrying, prompt)


def greedy_session(session: Run, prompt: Sequence[int], count: int) -> list[int]:
    """As ``greedy``, over a session that keeps the cache.

    Such as ``model.session(cache_links(config), initial=empty_cache(config))``.
    """
    tokens = greedy_session_steps(session, prompt)
    return [next(tokens) for _ in range(count)]


def greedy_session_steps(session: Run, prompt: Sequence[int]) -> Iterator[int]:
    """As ``greedy_steps``, over a ``session`` that keeps the cache."""
    import numpy as np

    new, total = list(prompt), len(prompt)
    while True:
        token = int(np.argmax(session(step_inputs(new, total))[LOGITS]))
        yield token
        new, total = [token], total + 1


def cache_links(config: LlamaConfig) -> dict[str, str]:
    """Output → the input that it becomes at the next step."""
    return dict(zip(config.present, config.past, strict=True))


def empty_cache(config: LlamaConfig) -> dict[str, NDArray[np.generic]]:
    """The cache before the first token."""
    import numpy as np

    return dict.fromkeys(config.past, np.zeros((1, config.kv_heads, 0, config.head_size), np.float32))


def step_inputs(new: Sequence[int], total: int) -> dict[str, NDArray[np.generic]]:
    """Inputs besides the cache for the ``new`` tokens at the end of ``total``."""
    import numpy as np

    return {
        INPUT_IDS: np.asarray([list(new)], np.int64),
        ATTENTION_MASK: np.ones((1, total), np.int64),
        POSITION_IDS: np.arange(total - len(new), total, dtype=np.int64)[None],
    }
