"""Intervals keep their confidence, whatever the distribution; corrections are the published ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from pytest_browserpool.analysis.intervals import (
    EFFECT,
    _signed_rank_limit,
    blocks_wanted,
    holm,
    paired,
    wilson,
)
from pytest_browserpool.analysis.moderate import _inverse_trigamma, moderated


@pytest.mark.parametrize(("n", "limit"), [(5, None), (6, 0), (8, 3), (10, 8), (20, 52), (50, 434)])
def test_the_signed_rank_limits_are_those_of_the_tables(n: int, limit: int | None) -> None:
    """Two-sided 5 % critical values of Wilcoxon's statistic."""
    assert _signed_rank_limit(n, 0.05) == limit


@pytest.mark.parametrize("n", [3, 5, 6, 9, 25, 60])
@pytest.mark.parametrize("shape", ["normal", "long tails"])
def test_intervals_miss_the_truth_in_five_percent_at_most(n: int, shape: str) -> None:
    chance = np.random.default_rng(n)
    seeds = 500
    draw = (
        (lambda: chance.normal(0.3, 1, n)) if shape == "normal" else (lambda: 0.3 + chance.standard_t(2, n))
    )
    found = [paired(list(draw())) for _ in range(seeds)]
    missed = sum(not interval.low <= 0.3 <= interval.high for interval in found)
    assert missed <= stats.binom.ppf(0.9999, seeds, 0.05)


def test_less_than_three_blocks_have_no_limits() -> None:
    assert not paired([0.1, 0.2]).known
    assert paired([0.1, 0.2]).middle == pytest.approx(0.15)
    assert not paired([]).known


def test_the_blocks_that_are_asked_for_mostly_settle_it() -> None:
    chance = np.random.default_rng(3)
    settled = 0
    for _ in range(200):
        values = list(chance.normal(0.15, 0.1, 4))
        more = blocks_wanted(values)
        assert more is not None
        found = paired([*values, *chance.normal(0.15, 0.1, more)])
        settled += found.beyond() or found.within()
    assert settled >= 100


def test_a_difference_too_small_for_the_noise_is_not_chased_for_ever() -> None:
    chance = np.random.default_rng(4)
    assert blocks_wanted(list(EFFECT / 2 + chance.normal(0, 3.0, 20))) is None


def test_holm_is_the_published_procedure() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": 0.03, "c": 0.06, "b": 0.06}
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 40), (40, 40)])
def test_wilson_agrees_with_scipy(hits: int, n: int) -> None:
    other = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((other.low, other.high), abs=1e-9)


@pytest.mark.parametrize("x", [1e-3, 0.3, 2.0, 40.0, 1e4])
def test_trigamma_is_inverted(x: float) -> None:
    assert _inverse_trigamma(float(special.polygamma(1, x))) == pytest.approx(x, rel=1e-5)


def test_variances_are_drawn_together_as_far_as_they_are_alike() -> None:
    chance = np.random.default_rng(5)
    alike = {k: (0.01 * chance.chisquare(4) / 4, 4) for k in range(60)}
    spread = [math.sqrt(v) for v, _ in moderated(alike).values()]
    assert max(spread) / min(spread) < 1.3
    apart = {k: (v * 10.0 ** (2 * (k % 2)), d) for k, (v, d) in alike.items()}
    drawn = moderated(apart)
    assert np.mean([drawn[k][0] for k in range(1, 60, 2)]) > 20 * np.mean(
        [drawn[k][0] for k in range(0, 60, 2)]
    )
