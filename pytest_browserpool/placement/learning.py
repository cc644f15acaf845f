"""``--browserpool-learn``: which of the browsers and backends that qualify runs the next test, as a bandit.

Each session that a node can give a test is an arm, and the logarithm of a warm test's seconds there is what is
unknown. The arm with the lowest optimistic price is pulled:

    set-up here now ÷ tests that it serves  +  exp(mean − √(2 · ln(1 + n) · variance))

with n the tests of this group that were sent in this run, and mean and variance of what is believed of the arm now
(beliefs.py; a set-up that is paid already is free). This is the index of Katehakis and Robbins (Sequential choice
from several populations, PNAS 92, 1995) for normal rewards of known variance, on logarithms and with a price.

*Regret.* An arm whose logarithm is worse by Δ is pulled at most 1 + 2·σ²·ln(n)/Δ² times among n tests beyond those
that are under way elsewhere, σ² being the variance of single tests (less where the prior knows something); and each
arm's set-up is paid at most once on each node. So what is lost to the best arm grows with the logarithm of n.

*Wrong priors.* A belief that an arm is slower by a factor F, with variance v, is put to the test when
2 · ln(1 + n) · v exceeds (ln F)²: after ``exp((ln F)² / (2·v)) − 1`` tests, if the set-up is worth it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_browserpool.placement.beliefs import Belief
from pytest_browserpool.placement.history import Session

RUNS_AHEAD = 30
"""Runs that what is learned now serves: as many as history is read back for the scheduler."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the next test of a group on a node."""

    session: Session
    belief: Belief
    """Of the log of a warm test's seconds; with the prior in it where nothing was measured."""
    setup: float
    """Launch and load that the next test would pay here, in seconds."""
    under_way: int = 0
    """Tests that run in it now: they will be known soon, and need not be pulled again for that."""
    scale: float = 1.0
    """Seconds here for one at speed 1."""


def optimism(belief: Belief, sent: int, under_way: int = 0) -> float:
    """How far below its mean the log of a time may well be, after ``sent`` tests of the group."""
    variance = 1.0 / (1.0 / belief.variance + under_way / belief.noise)
    return math.sqrt(2.0 * math.log1p(sent) * variance)


def price(arm: Arm, sent: int, waiting: int) -> float:
    """Optimistic seconds of a test on ``arm``, its set-up shared among those that it may serve."""
    belief = arm.belief
    run = math.exp(belief.mean + belief.noise / 2 - optimism(belief, sent, arm.under_way))
    return arm.setup / (max(1, waiting) * RUNS_AHEAD) + run * arm.scale


def pull(arms: Sequence[Arm], sent: int, waiting: int) -> Arm:
    """The arm of the lowest price; the first of equals, so that the same events give the same choice.

    ``sent``: tests of the group that were sent in this run; ``waiting``: those that were not.
    """
    return min(arms, key=lambda arm: price(arm, sent, waiting))
