"""The capability score: a product of named factors that decides between candidates of nearly equal completion
time."""

from __future__ import annotations

from collections.abc import Mapping

AFFINITY: Mapping[str, str] = {
    "audio": "firefox",
    "vision": "chrome",
    "text": "edge",
    "large_language_model": "chrome",
}
"""Model type → browser family that is believed to run it best. A belief: the latency ratio and the expected
completion, which are measured, override it."""
AFFINITY_MATCH, AFFINITY_WEBNN, AFFINITY_OTHER = 1.2, 1.1, 1.0
"""Factors for the believed family, for any browser with WebNN where that family is not there, and for the
rest."""
OVERLOAD = 0.7
"""Predicted utilization above which a browser is avoided; the penalty falls from 1 there to 0.1 at full
use."""
SUCCESS_FLOOR, SUCCESS_LEAST_N = 0.2, 5
"""Success counts once it rests on more than five tests, and never rules a candidate out by itself."""
LATENCY_RANGE = (0.5, 1.5)
"""Clamp of the ratio of the usual latency of the model to that of this candidate."""
MEMORY_TIGHT = 0.5
"""Factor when the model would fill the node's memory to the brim; 1 where it takes less than half."""


def affinity(model_type: str, family: str, *, webnn: bool, preferred_here: bool) -> float:
    """The prior of ``model_type`` for a browser of ``family``; ``preferred_here``: the believed family is in
    the run."""
    wanted = AFFINITY.get(model_type)
    if wanted == family:
        return AFFINITY_MATCH
    if webnn and model_type and not (wanted and preferred_here):
        return AFFINITY_WEBNN
    return AFFINITY_OTHER


def capacity(utilization: float) -> float:
    """``max(0.1, 1 − utilization)``."""
    return max(0.1, 1.0 - utilization)


def overload(predicted: float) -> float:
    """1 up to ``OVERLOAD``, then linear down to 0.1."""
    if predicted <= OVERLOAD:
        return 1.0
    return max(0.1, 1.0 - 0.9 * (predicted - OVERLOAD) / (1.0 - OVERLOAD))


def success(good: int, n: int) -> float:
    """``0.2 + 0.8·p`` with more than five tests, else 1."""
    return SUCCESS_FLOOR + (1 - SUCCESS_FLOOR) * good / n if n > SUCCESS_LEAST_N else 1.0


def latency(usual: float, here: float) -> float:
    """How much quicker than usual the model runs here, clamped."""
    if here <= 0 or usual <= 0:
        return 1.0
    return min(LATENCY_RANGE[1], max(LATENCY_RANGE[0], usual / here))


def memory(needed_gib: float | None, node_gib: float) -> float:
    """1 where the test takes less than half of the node's memory, down to ``MEMORY_TIGHT`` where it takes
    all."""
    if not needed_gib or node_gib <= 0:
        return 1.0
    share = min(1.0, needed_gib / node_gib)
    return 1.0 if share <= 0.5 else 1.0 - (1.0 - MEMORY_TIGHT) * (share - 0.5) / 0.5


def product(factors: Mapping[str, float]) -> float:
    score = 1.0
    for value in factors.values():
        score *= value
    return score
