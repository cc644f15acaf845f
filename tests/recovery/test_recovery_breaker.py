"""The circuit breaker, by example and against a list of what it allowed."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_browserpool.recovery.breaker import Breaker, Breakers, BreakerSettings, Circuit, Trials


def fail(breaker: Breaker, at: float, times: int) -> None:
    for _ in range(times):
        ticket = breaker.acquire(at)
        assert ticket is not None
        breaker.failure(at, ticket)


def test_five_failures_open_it_thirty_seconds_half_open_three_successes_close() -> None:
    breaker = Breaker()
    fail(breaker, 10.0, 4)
    assert breaker.allows(10.0)
    fail(breaker, 10.0, 1)
    assert breaker.circuit is Circuit.OPEN
    assert not breaker.allows(39.9)
    assert breaker.allows(40.0)
    for _ in range(3):
        assert breaker.circuit is Circuit.HALF_OPEN
        ticket = breaker.acquire(40.0)
        assert ticket is not None
        assert breaker.acquire(40.0) is None, "one at a time"
        breaker.success(41.0, ticket)
    assert breaker.circuit is Circuit.CLOSED
    fail(breaker, 42.0, 4)
    assert breaker.circuit is Circuit.CLOSED


def test_one_failure_while_half_open_opens_it_again_for_as_long() -> None:
    breaker = Breaker(BreakerSettings(trials=2))
    fail(breaker, 0.0, 5)
    good, bad = breaker.acquire(30.0), breaker.acquire(30.0)
    assert good is not None
    assert bad is not None
    breaker.success(31.0, good)
    breaker.failure(32.0, bad)
    assert not breaker.allows(61.9)
    assert breaker.allows(62.0)


def test_a_success_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(20):
        fail(breaker, 0.0, 4)
        ticket = breaker.acquire(0.0)
        assert ticket is not None
        breaker.success(0.0, ticket)
    assert breaker.circuit is Circuit.CLOSED


def test_what_began_before_it_opened_is_no_evidence_about_now() -> None:
    breaker = Breaker()
    old = breaker.acquire(0.0)
    assert old is not None
    fail(breaker, 0.0, 5)
    assert breaker.allows(30.0)
    breaker.success(30.0, old)
    breaker.failure(30.0, old)
    assert (breaker.circuit, breaker.successes, breaker.in_flight) == (Circuit.HALF_OPEN, 0, 0)


def test_an_abandoned_trial_is_free_again() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, 5)
    for _ in range(10):
        ticket = breaker.acquire(30.0)
        assert ticket is not None
        breaker.abandon(30.0, ticket)
    assert breaker.allows(30.0)


def test_the_last_candidate_runs_though_open_and_its_outcome_is_no_trial() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, 5)
    assert breaker.acquire(1.0) is None
    ticket = breaker.acquire(1.0, forced=True)
    assert ticket is not None
    breaker.success(2.0, ticket)
    assert breaker.circuit is Circuit.OPEN


def test_blocked_names_steer_but_never_all() -> None:
    breakers = Breakers()
    fail(breakers.of("chromium"), 0.0, 5)
    assert breakers.blocked(1.0, ["chromium", "firefox"]) == {"chromium"}
    assert breakers.blocked(1.0, ["chromium"]) == frozenset()
    fail(breakers.of("firefox"), 0.0, 5)
    assert breakers.blocked(1.0, ["chromium", "firefox"]) == frozenset()
    assert breakers.blocked(1.0, []) == frozenset()
    assert breakers.blocked(30.0, ["chromium", "firefox", "edge"]) == frozenset()


def test_an_operation_without_a_ticket_counts_unless_it_began_before_the_breaker_opened() -> None:
    breaker, told = Breaker(), []
    breaker.changed = told.append
    for _ in range(4):
        breaker.met(1.0, 0.5, ok=False)
    breaker.met(1.0, 0.5, ok=True)
    assert breaker.pristine
    for _ in range(5):
        breaker.met(2.0, 1.5, ok=False)
    assert (breaker.circuit, breaker.pristine) == (Circuit.OPEN, False)
    breaker.met(10.0, 9.0, ok=False)  # the last candidate runs though it is open
    breaker.met(33.0, 1.0, ok=False)  # it began before
    assert breaker.allows(33.0)
    for _ in range(3):
        breaker.met(34.0, 33.0, ok=True)
    assert breaker.pristine
    assert told == [Circuit.OPEN, Circuit.CLOSED]


def test_breakers_tell_what_opens_and_closes_by_name() -> None:
    told: list[tuple[str, Circuit]] = []
    breakers = Breakers(changed=lambda name, circuit: told.append((name, circuit)))
    assert breakers.pristine("firefox")
    fail(breakers.of("firefox"), 0.0, 5)
    assert not breakers.pristine("firefox")
    assert breakers.circuits(29.0) == {"firefox": Circuit.OPEN}
    assert breakers.circuits(30.0) == {"firefox": Circuit.HALF_OPEN}
    assert told == [("firefox", Circuit.OPEN)]


BOTH = ["chromium", "firefox"]


def test_a_model_in_a_half_open_browser_keeps_others_away_until_it_leaves() -> None:
    breakers = Breakers()
    first, second = Trials(breakers), Trials(breakers)
    first.enter(0.0, "firefox")
    assert breakers.blocked(0.0, BOTH) == frozenset(), "a closed breaker has no trials"
    fail(breakers.of("firefox"), 0.0, 5)
    assert breakers.blocked(30.0, BOTH) == frozenset()
    first.enter(30.0, "firefox")
    assert breakers.blocked(30.0, BOTH) == {"firefox"}
    assert breakers.blocked(30.0, ["firefox"]) == frozenset(), "the last candidate is never blocked"
    second.enter(30.0, "firefox")
    first.leave(31.0)
    assert breakers.blocked(31.0, BOTH) == {"firefox"}
    second.leave(31.0)
    second.leave(31.0)
    assert breakers.blocked(31.0, BOTH) == frozenset()
    assert breakers.of("firefox").in_flight == 0


@pytest.mark.parametrize(("ok", "after"), [(True, Circuit.CLOSED), (False, Circuit.OPEN)])
def test_calls_of_the_model_on_trial_close_it_or_open_it_again(ok: bool, after: Circuit) -> None:
    breakers, firefox = Breakers(), "firefox"
    fail(breakers.of(firefox), 0.0, 5)
    trials = Trials(breakers)
    trials.enter(30.0, firefox)
    breakers.of(firefox).met(31.0, 30.5, ok=True)
    breakers.of(firefox).met(32.0, 31.5, ok=True)
    assert breakers.blocked(32.0, BOTH) == {firefox}, "two successes, and the model is still there"
    breakers.of(firefox).met(33.0, 32.5, ok=ok)
    assert breakers.of(firefox).circuit is after
    trials.leave(34.0)
    assert (breakers.of(firefox).circuit, breakers.of(firefox).in_flight) == (after, 0)


class BreakerModel(RuleBasedStateMachine):
    """Against a plain record: which tickets are out, and since when it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0
        self.breaker = Breaker(
            BreakerSettings(failures_to_open=3, open_seconds=10.0, trials=2, successes_to_close=2)
        )
        self.tickets: list[tuple[int, str]] = []
        self.streak = 0
        self.opened: float | None = None

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.at += seconds

    @rule()
    def acquire(self) -> None:
        allowed = self.breaker.allows(self.at)
        ticket = self.breaker.acquire(self.at)
        assert (ticket is not None) == allowed
        if self.opened is not None and self.at - self.opened < 10.0:
            assert ticket is None, "open, and something was let through"
        if ticket is not None:
            self.tickets.append((ticket, self.breaker.circuit.value))

    @precondition(lambda self: self.tickets)
    @rule(which=st.integers(0, 9), outcome=st.sampled_from(["success", "failure", "abandon"]))
    def report(self, which: int, outcome: str) -> None:
        ticket, _ = self.tickets.pop(which % len(self.tickets))
        self.breaker.allows(self.at)
        before, openings = self.breaker.circuit, self.breaker.openings
        getattr(self.breaker, outcome)(self.at, ticket)
        if self.breaker.openings > openings:
            assert outcome == "failure"
            self.opened = self.at
        if before is Circuit.HALF_OPEN and outcome == "failure" and ticket == openings:
            assert self.breaker.circuit is Circuit.OPEN
        if before is Circuit.CLOSED and ticket == openings:
            self.streak = (
                self.streak + 1 if outcome == "failure" else 0 if outcome == "success" else self.streak
            )
            assert (self.breaker.circuit is Circuit.OPEN) == (self.streak >= 3)
        if self.breaker.circuit is not Circuit.CLOSED or before is not Circuit.CLOSED:
            self.streak = 0

    @rule(ok=st.booleans(), ago=st.sampled_from([0.0, 5.0]))
    def met(self, ok: bool, ago: float) -> None:
        """An operation without a ticket: like one with a ticket taken when it began."""
        self.breaker.allows(self.at)
        before, openings, trials = self.breaker.circuit, self.breaker.openings, self.breaker.in_flight
        self.breaker.met(self.at, self.at - ago, ok=ok)
        if self.breaker.openings > openings:
            assert not ok
            assert self.opened is None or self.at - ago >= self.opened
            self.opened = self.at
        elif self.breaker.circuit is before:
            assert self.breaker.in_flight == trials, "it holds no trial once it has ended"
        if before is Circuit.CLOSED and (self.opened is None or self.at - ago >= self.opened):
            self.streak = 0 if ok else self.streak + 1
            assert (self.breaker.circuit is Circuit.OPEN) == (self.streak >= 3)
        if self.breaker.circuit is not Circuit.CLOSED or before is not Circuit.CLOSED:
            self.streak = 0

    @invariant()
    def trials_are_few(self) -> None:
        assert 0 <= self.breaker.in_flight <= 2
        assert self.breaker.pristine == (self.breaker.circuit is Circuit.CLOSED and self.streak == 0)
        out = sum(
            1 for ticket, kind in self.tickets if kind == "half_open" and ticket == self.breaker.openings
        )
        if self.breaker.circuit is Circuit.HALF_OPEN:
            assert self.breaker.in_flight == out


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
