"""What it is worth to find out whether another browser is faster: the price of an option, against its cost.

Trying a session costs its set-up, and what its tests take longer. It is worth that all tests that still wait may go
there, if it turns out to be faster. With beliefs about two times that are normal in the logarithm, the expected gain
of being allowed to exchange one for the other is Margrabe's formula (W. Margrabe, The Value of an Option to Exchange
One Asset for Another, Journal of Finance 33, 1978).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from pytest_browserpool.placement.beliefs import Belief
from pytest_browserpool.placement.book import Book
from pytest_browserpool.placement.explain import Explainer
from pytest_browserpool.placement.history import Session
from pytest_browserpool.placement.learning import Arm, pull
from pytest_browserpool.placement.state import Batch, NodePlan

DOUBT = 3.0
"""A session that is believed to be slower by more than so many standard deviations is not looked at closer."""
TRIALS = (1, 2, 4, 8)
"""Numbers of tests that a trial may take: one alone says little where tests differ much."""


def exchange(kept: float, offered: float, deviation: float) -> float:
    """Expected gain of the right to exchange ``kept`` for ``offered`` (mean seconds), where the log of their ratio
    is uncertain by ``deviation``."""
    if deviation <= 0:
        return max(0.0, kept - offered)
    d = math.log(kept / offered) / deviation + deviation / 2
    return kept * _normal(d) - offered * _normal(d - deviation)


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def learned(belief: Belief, measurements: float) -> float:
    """By how much the variance of a belief falls with so many more measurements."""
    return belief.variance**2 / (belief.variance + belief.noise / measurements)


@dataclass(frozen=True, slots=True)
class Stake:
    """What a trial is about, in seconds at speed 1."""

    waiting: float
    """Tests that wait and could go either way."""
    running: int
    """Tests that run meanwhile in the session that is kept: as many go on there during the trial."""
    setup: float
    """Launch and load that the trial costs."""
    move: float
    """Set-ups that the other nodes would pay for going there, if it turns out to be faster."""


def worth(kept: Belief, tried: Belief, stake: Stake, apart: Callable[[float, float], float]) -> float:
    """Seconds that trying gains net, at best.

    ``apart``: variance of the log of the ratio of both times, once each was measured so many times more.
    """
    best = -math.inf
    average = math.exp(kept.noise / 2)
    waiting = max(stake.waiting, 1.0)
    mine, unknown = learned(kept, waiting), apart(0.0, 0.0)
    for trials in TRIALS:
        other = learned(tried, trials)
        a, b = math.exp(kept.mean + mine / 2) * average, math.exp(tried.mean + other / 2) * average
        left = stake.waiting - trials - stake.running * (stake.setup + trials * b) / a
        if left < 1:
            break
        told = max(0.0, unknown - apart(waiting, trials))
        gain = left * exchange(a, b + stake.move / left, math.sqrt(told))
        best = max(best, gain - trials * max(0.0, b - a) - stake.setup)
    return best


def pulled(book: Book, explainer: Explainer, node: NodePlan, batch: Batch) -> Session:
    """The session of ``node`` in which the bandit has the next test of ``batch`` run."""
    costs, kind = book.costs.runs, batch.kind
    arms = []
    for session in kind.options[node.profile]:
        belief = book.estimates.of_belief(session)
        if not costs.knows(session):
            # nothing was ever measured here: the belief about the model's type is all there is
            affinity = explainer.factors(node, session, batch.tests[0]).get("affinity", 1.0)
            belief = replace(belief, mean=belief.mean - math.log(affinity))
        arms.append(Arm(session, belief, sum(node.setup_now(session)), book.flying[session], node.slowness))
    return pull(arms, kind.pool.sent, kind.pool.waiting).session


def probe(book: Book, node: NodePlan, batch: Batch) -> Session | None:
    """The other session of ``batch`` that the next test had better try on ``node``, if any.

    None before the planned one was measured: there is nothing to compare with, and its set-up would be paid besides. And
    one that is warm on another node is tried there, if at all: here its set-up would be paid again.
    """
    kind, estimates, runs = batch.kind, book.estimates, book.costs.runs
    if not runs.knows(batch.session):
        return None
    kept = estimates.of_belief(batch.session)
    found: tuple[float, Session] | None = None
    for session in kind.options[node.profile]:
        if session == batch.session or session in runs.history or book.flying[session]:
            continue
        if estimates.warm[session] and session not in node.warm:
            continue
        tried = estimates.of_belief(session)
        if tried.mean - kept.mean > DOUBT * math.sqrt(tried.variance + kept.variance):
            continue
        elsewhere = estimates.warm[batch.session] - (batch.session in node.warm)
        stake = Stake(
            waiting=kind.pool.waiting,
            running=book.flying[batch.session],
            setup=sum(node.setup_now(session)) / node.slowness,
            move=elsewhere * estimates.of_load(session),
        )
        gain = worth(kept, tried, stake, partial(runs.apart, batch.session, session))
        if gain > 0 and (found is None or gain > found[0]):
            found = (gain, session)
    return found[1] if found else None
