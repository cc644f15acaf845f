"""Spread between runs, learned over all series together: one series of four runs knows little of its own. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from scipy import special

K = TypeVar("K")

CAUTION = 0.5
"""Share of all degrees of freedom that one variance may count as its own at most. What the series have in common is
itself estimated from them; counted in full, 6 series of 6 runs gave 6 – 9 % of false alarms where 5 were wanted."""

LEAST_SPREAD = 0.01
"""Standard deviation of a log time below which none is believed: clocks and medians of few calls are no finer."""


def alone(spreads: Mapping[K, tuple[float, int]]) -> dict[K, tuple[float, float]]:
    """Each variance as it is, but for ``LEAST_SPREAD``."""
    return {key: (max(variance, LEAST_SPREAD**2), float(d)) for key, (variance, d) in spreads.items()}


def moderated(spreads: Mapping[K, tuple[float, int]]) -> dict[K, tuple[float, float]]:
    """Variances and their degrees of freedom, each drawn towards what all of them have in common.

    Empirical Bayes as in Smyth, "Linear models and empirical Bayes methods for assessing differential expression in
    microarray experiments", Statistical Applications in Genetics and Molecular Biology 3 (2004), section 6.2: the
    variances follow a scaled inverse chi-square whose scale ``s0²`` and freedom ``d0`` come from the mean and the
    spread of their logarithms; each becomes ``(d0·s0² + d·s²) / (d0 + d)`` with ``d0 + d`` degrees of freedom. With
    one or two series, nothing can be learned from the others and each keeps its own.

    Args:
        spreads: key → (variance, degrees of freedom ≥ 1).
    """
    floor = LEAST_SPREAD**2
    known = alone(spreads)
    if len(known) < 3:
        return known
    variances = np.array([v for v, _ in known.values()])
    freedom = np.array([d for _, d in known.values()])
    logs = np.log(variances) - special.digamma(freedom / 2) + np.log(freedom / 2)
    n = len(logs)
    excess = float(np.mean((logs - logs.mean()) ** 2 * n / (n - 1) - special.polygamma(1, freedom / 2)))
    if excess <= 0:  # they differ no more than chance makes them: one variance for all
        shared, weight = math.exp(float(logs.mean())), CAUTION * float(freedom.sum())
        return {key: (max(shared, floor), weight) for key in known}
    prior = 2 * _inverse_trigamma(excess)
    shared = math.exp(float(logs.mean()) + float(special.digamma(prior / 2)) - math.log(prior / 2))
    return {
        key: (
            max(floor, (prior * shared + d * v) / (prior + d)),
            min(prior + d, CAUTION * float(freedom.sum())),
        )
        for key, (v, d) in known.items()
    }


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = ``value``, by Newton's method on 1/trigamma (Smyth 2004, appendix)."""
    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        first = float(special.polygamma(1, x))
        step = first * (1 - first / value) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x
