"""Intervals of log ratios from paired blocks, the runs still missing, and corrections for many comparisons. Pure.

Ratios are kept as logarithms (natural): a ratio of 2 and one of 1/2 are then equally far from none. A block is what is
independent of the others: one run on one host. Calls within it share a machine, a page and a compiled session, so they
are one measurement, however many they are.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from scipy import special

K = TypeVar("K")

ALPHA = 0.05
"""Chance of a false statement, over all comparisons that answer one question together."""
EFFECT = math.log(1.1)
"""Ten percent: what is nearer than that is called equal, for nobody would act on it."""
LEAST_BLOCKS = 3
"""Blocks below which no interval is given: two values do not tell their own spread."""
MOST_BLOCKS = 200
"""More blocks than this are not asked for: the difference is then too small for this machine's noise."""
USUAL_SPREAD = 0.15
"""Standard deviation of a paired log ratio while too few blocks tell it: repeated runs of one suite on a quiet
machine differ by 5 – 15 %."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A log ratio with its confidence limits. Without limits there is not enough data for them."""

    middle: float
    low: float
    high: float
    blocks: int
    method: str

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def beyond(self, effect: float = 0.0) -> bool:
        """Whether the whole interval lies above ``effect``."""
        return self.known and self.low > effect

    def within(self, effect: float = EFFECT) -> bool:
        """Whether the whole interval lies within ±``effect``: shown to be equal, for all that matters."""
        return self.known and -effect < self.low and self.high < effect

    def __neg__(self) -> Interval:
        return Interval(-self.middle, -self.high, -self.low, self.blocks, self.method)


def paired(differences: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The interval, with confidence 1 − ``alpha``, of the middle of one log ratio per block.

    Where there are blocks enough for it, the Hodges–Lehmann estimate with the exact interval of Wilcoxon's
    signed-rank statistic, which asks nothing of the distribution but symmetry (Hollander, Wolfe and Chicken,
    *Nonparametric Statistical Methods*, 3rd ed., 3.2 and 3.3). It cannot be had from fewer than
    ``1 + log2(1/alpha)`` blocks (6 for 5 %); there Student's t stands in, which long tails only make wider
    (Benjamini, "Is the t test really conservative when the parent distribution is long-tailed?", JASA 78, 1983).
    """
    values = np.sort(np.asarray(differences, dtype=float))
    n = len(values)
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf, 0, "none")
    if n < LEAST_BLOCKS:
        return Interval(float(np.median(values)), -math.inf, math.inf, n, "none")
    rank = _signed_rank_limit(n, alpha)
    if rank is not None:
        first, second = np.triu_indices(n)
        walsh = np.sort((values[first] + values[second]) / 2)
        low, high = walsh[rank], walsh[len(walsh) - 1 - rank]
        return Interval(float(np.median(walsh)), float(low), float(high), n, "signed-rank")
    half = _t(n - 1, alpha) * float(np.std(values, ddof=1)) / math.sqrt(n)
    middle = float(np.mean(values))
    return Interval(middle, middle - half, middle + half, n, "t")


def _t(freedom: float, alpha: float) -> float:
    """Two-sided critical value of Student's t."""
    return float(special.stdtrit(freedom, 1 - alpha / 2))


@cache
def _signed_rank_limit(n: int, alpha: float) -> int | None:
    """Index of the sorted Walsh average that the interval begins with: the largest k with P(T ≤ k) ≤ alpha/2. None
    where even the widest interval has less than the wanted confidence."""
    if n > 50:  # the normal approximation is good to a rank there
        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return max(0, math.floor(n * (n + 1) / 4 - float(special.ndtri(1 - alpha / 2)) * spread - 0.5))
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):
        counts[rank:] += counts[:-rank].copy()
    below = np.cumsum(counts) / 2.0**n
    inside = np.flatnonzero(below <= alpha / 2)
    return int(inside[-1]) if len(inside) else None


def blocks_wanted(differences: Sequence[float], alpha: float = ALPHA) -> int | None:
    """How many more blocks would probably settle whether the ratio is above 10 %, or below it.

    Settled means that the interval leaves out 0, or lies within ±10 %: its half width must come down to
    ``max(|middle|, log 1.1 − |middle|)``. None where that would take more than ``MOST_BLOCKS``.
    """
    have = len(differences)
    middle = abs(statistics.median(differences)) if differences else 0.0
    spread = statistics.stdev(differences) if have >= LEAST_BLOCKS else USUAL_SPREAD
    wanted = max(middle, EFFECT - middle)
    for n in range(max(LEAST_BLOCKS, have + 1), MOST_BLOCKS + 1):
        if _t(n - 1, alpha) * spread / math.sqrt(n) <= wanted:
            return n - have
    return None


def wilson(hits: int, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Confidence limits of a share (Wilson, "Probable inference", JASA 22, 1927): sensible for 0 of n too."""
    if n == 0:
        return 0.0, 1.0
    z = float(special.ndtri(1 - alpha / 2))
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def holm(chances: Mapping[K, float]) -> dict[K, float]:
    """p values adjusted for their number (Holm, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6, 1979): below 5 % means that with 95 % none of those is false, whatever
    depends on what."""
    ordered = sorted(chances, key=lambda key: chances[key])
    raised = (min(1.0, (len(ordered) - i) * chances[key]) for i, key in enumerate(ordered))
    return dict(zip(ordered, itertools.accumulate(raised, max), strict=True))
