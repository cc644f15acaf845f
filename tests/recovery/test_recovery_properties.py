"""Whatever happens, in whatever order: each recovery ends, in its budgets, and does nothing forbidden."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from recovery_world import ALL, World

from pytest_browserpool import errors
from pytest_browserpool.recovery import signals as s
from pytest_browserpool.recovery.choice import CAPS, Plan
from pytest_browserpool.recovery.limits import MOST_ATTEMPTS, USUAL_SECONDS, Backoff
from pytest_browserpool.recovery.machine import IllegalTransition, Machine
from pytest_browserpool.recovery.signals import Step
from pytest_browserpool.recovery.strategies import STRATEGIES
from pytest_browserpool.recovery.table import TABLE, TERMINAL, Signal, State

FAULTS = st.sampled_from(errors.Fault.__subclasses__())
NAMES = st.frozensets(st.sampled_from(sorted({c.browser for c in ALL})))
PARTS = ("embed", "middle", "head")

plans = st.builds(
    Plan,
    candidates=st.lists(st.sampled_from(ALL), min_size=1, unique=True).map(tuple),
    strategy=st.sampled_from(sorted(STRATEGIES)).map(STRATEGIES.__getitem__),
    priority=st.integers(1, 5),
    timeout=st.sampled_from([0.5, 20.0, 90.0]),
    fallback=st.sampled_from([None, "cpu"]),
    backend=st.sampled_from(["webgpu", "wasm"]),
    costs=st.sampled_from([{}, {Step.RESTART: 3.0, Step.MIGRATE: 8.0}, {Step.RELOAD: 500.0}]),
    backoff=st.sampled_from([Backoff(), Backoff(base=5.0, most=60.0, jitter=0.0)]),
)

SIGNALS: dict[type, tuple[Signal, ...]] = {
    s.Begin: (Signal.BEGIN,),
    s.Started: (Signal.STARTED,),
    s.Succeeded: (Signal.SUCCEEDED,),
    s.Faulted: (Signal.FAULT, Signal.ECHO),
    s.NotAFault: (Signal.NOT_A_FAULT,),
    s.Waited: (Signal.WAITED,),
    s.Unavailable: (Signal.UNAVAILABLE,),
    s.Stopped: (Signal.STOPPED,),
    s.Restored: (Signal.RESTORED, Signal.RESTORED_ALL),
    s.Resumed: (Signal.RESUMED,),
    s.TimeUp: (Signal.TIME_UP,),
    s.Cancelled: (Signal.CANCELLED,),
}


def snapshot(m: Machine) -> tuple[object, ...]:
    return (m.state, m.story, m.attempt, m.seats, m.degraded, m.outcome, m.seconds_left(1e9))


class Recovery(RuleBasedStateMachine):
    """An adapter that answers every instruction in every way it may, and sends what it must not, too."""

    @initialize(plan=plans, seed=st.integers(0, 99), shards=st.booleans())
    def begin(self, plan: Plan, seed: int, shards: bool) -> None:
        self.at = 0.0
        self.plan, self.world = plan, World(plan)
        self.machine = Machine(plan, source=random.Random(seed))
        keys = [c.key for c in plan.candidates if not c.standby] or [plan.candidates[0].key]
        if shards and plan.strategy.coordinated:
            keys = keys[: len(PARTS)]
            parts = dict(zip(PARTS, keys, strict=False))
            assert self.machine.handle(s.Begin(at=0.0, parts=parts)) == []
        else:
            keys = keys[:1]
            assert self.machine.handle(s.Begin(at=0.0, key=keys[0])) == []
        self.world.begin(keys)
        self.pending: s.Instruction | None = None
        self.first_fault_at: float | None = None
        self.wait_until = 0.0

    def send(self, event: s.Event) -> None:
        assert self.machine.state not in TERMINAL
        answer = self.world.carry_out(self.machine.handle(event))
        if isinstance(answer, s.Wait):
            self.wait_until = self.at + answer.seconds
        self.pending = answer or self.pending

    def pass_time(self, seconds: float) -> None:
        self.at += min(seconds, max(0.0, self.machine.seconds_left(self.at)))

    @precondition(lambda self: self.machine.state not in (State.READY, *TERMINAL))
    @rule(
        seconds=st.floats(0, 100),
        fault=FAULTS,
        blocked=NAMES,
        which=st.integers(0, 2),
        numbered=st.booleans(),
        detail=st.text(max_size=3),
    )
    def fault(
        self,
        seconds: float,
        fault: type[errors.Fault],
        blocked: frozenset[str],
        which: int,
        numbered: bool,
        detail: str,
    ) -> None:
        self.pass_time(seconds)
        parts = list(self.machine.seats)
        attempt = self.machine.attempt if numbered else None
        if self.first_fault_at is None:
            self.first_fault_at = self.at
        part = parts[which % len(parts)]
        self.send(
            s.Faulted(at=self.at, fault=fault, part=part, attempt=attempt, detail=detail, blocked=blocked)
        )

    @precondition(lambda self: self.machine.attempt > 1)
    @rule(fault=FAULTS, back=st.integers(1, 3))
    def echo(self, fault: type[errors.Fault], back: int) -> None:
        number = self.machine.attempt - back
        assume(number >= 1)
        part = next(iter(self.machine.seats))
        before = (self.machine.state, self.machine.attempt, self.machine.seats)
        assert self.machine.handle(s.Faulted(at=self.at, fault=fault, part=part, attempt=number)) == []
        assert before == (self.machine.state, self.machine.attempt, self.machine.seats)

    @precondition(lambda self: self.machine.state is State.WAITING)
    @rule(blocked=NAMES)
    def waited(self, blocked: frozenset[str]) -> None:
        assert isinstance(self.pending, s.Wait)
        self.at = max(self.at, self.wait_until)
        self.send(s.Waited(at=self.at, blocked=blocked))
        assert not isinstance(self.pending, s.Wait)

    @precondition(lambda self: self.machine.state is State.STEPPING)
    @rule(seconds=st.floats(0, 5))
    def started(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.send(s.Started(at=self.at, attempt=self.machine.attempt))

    @precondition(lambda self: self.machine.state in (State.STEPPING, State.RESTORING))
    @rule(blocked=NAMES)
    def unavailable(self, blocked: frozenset[str]) -> None:
        assert self.pending is not None
        part = getattr(self.pending, "part", "") or next(iter(self.machine.seats))
        self.send(s.Unavailable(at=self.at, reason="the pool is full", part=part, blocked=blocked))

    @precondition(lambda self: self.machine.state is State.STOPPING)
    @rule(step=st.integers(0, 9))
    def stopped(self, step: int) -> None:
        self.send(s.Stopped(at=self.at, step=step))

    @precondition(lambda self: self.machine.state is State.RESTORING)
    @rule()
    def restored(self) -> None:
        assert isinstance(self.pending, s.Restore)
        self.send(s.Restored(at=self.at, part=self.pending.part))

    @precondition(lambda self: self.machine.state is State.RESUMING)
    @rule()
    def resumed(self) -> None:
        self.send(s.Resumed(at=self.at))

    @precondition(lambda self: self.machine.state is State.RUNNING)
    @rule(seconds=st.floats(0, 5))
    def succeeded(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.send(s.Succeeded(at=self.at))
        assert self.machine.outcome in ("clean", "recovered", "degraded")

    @precondition(lambda self: self.machine.state in (State.RUNNING, State.STEPPING, State.RESTORING))
    @rule()
    def not_a_fault(self) -> None:
        orders = len(self.world.orders)
        self.send(s.NotAFault(at=self.at, error="AssertionError"))
        assert (self.machine.state, self.machine.outcome) == (State.GAVE_UP, "not_retried")
        assert len(self.world.orders) == orders

    @precondition(
        lambda self: self.machine.state not in TERMINAL and self.machine.seconds_left(self.at) < 1e6
    )
    @rule()
    def time_up(self) -> None:
        self.at += self.machine.seconds_left(self.at) + 1e-6
        self.send(s.TimeUp(at=self.at))
        assert self.machine.state is State.GAVE_UP

    @rule(data=st.data())
    def illegal(self, data: st.DataObject) -> None:
        """Every event that the table has no place for raises, and nothing changes."""
        state = self.machine.state
        kind = data.draw(
            st.sampled_from(
                [k for k, signals in SIGNALS.items() if not any(x in TABLE[state] for x in signals)] or [None]
            )
        )
        if kind is None:
            return
        extra = {
            s.Started: {"attempt": self.machine.attempt},
            s.Faulted: {"fault": errors.PageHung},
            s.Begin: {"key": self.plan.candidates[0].key},
            s.Unavailable: {"reason": ""},
            s.Stopped: {"step": 0},
            s.Restored: {"part": next(iter(self.machine.seats), "")},
        }.get(kind, {})
        before = snapshot(self.machine)
        with pytest.raises(IllegalTransition):
            self.machine.handle(kind(at=self.at, **extra))
        assert snapshot(self.machine) == before

    # -- what must hold at every moment; that a step is possible at all is checked by the world --

    @invariant()
    def bounded(self) -> None:
        m = self.machine
        assert m.state is not State.DECIDING
        assert m.attempt <= MOST_ATTEMPTS
        coordinated = self.plan.strategy.coordinated
        taken = Counter((a.action, a.key) for a in m.story if a.action not in ("begin", "echo"))
        for (action, key), n in taken.items():
            assert n <= CAPS[Step(action)], f"{action} on {key} {n} times"
        for order in self.world.orders:
            assert order.seconds <= self.plan.timeout + max(self.plan.costs.values(), default=0.0)
        assert coordinated or len(m.seats) == 1
        assert len(set(m.seats.values())) == len(m.seats), "two parts on one seat"

    @invariant()
    def honest(self) -> None:
        m = self.machine
        cpu = [a for a in m.story if a.action == Step.CPU]
        assert len(cpu) <= 1
        assert m.degraded == any(a.outcome != "unavailable" for a in cpu)
        if m.degraded:
            assert self.plan.fallback == "cpu"
            assert self.plan.backend != "wasm"
            assert not self.plan.strategy.coordinated
        if self.plan.strategy.name == "none":
            assert m.recoveries == 0
        if m.state in TERMINAL:
            assert m.outcome
            assert all(a.ended_at is not None and a.outcome for a in m.story)
            assert m.state is State.DONE or isinstance(self.pending, s.GiveUp)

    @invariant()
    def in_time(self) -> None:
        if self.first_fault_at is None:
            return
        needs = self.plan.timeout + max(self.plan.costs.values(), default=0.0)
        assert self.at - self.first_fault_at <= max(USUAL_SECONDS, needs) + 1e-3


TestRecovery = Recovery.TestCase
TestRecovery.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@settings(max_examples=300, deadline=None)
@given(
    plan=plans,
    seed=st.integers(0, 99),
    faults=st.lists(st.tuples(FAULTS, NAMES, st.floats(0, 30)), min_size=12, max_size=12),
    good=st.integers(0, 12),
)
def test_every_sequence_of_faults_ends_in_an_answer_or_a_history(
    plan: Plan, seed: int, faults: list[tuple[type[errors.Fault], frozenset[str], float]], good: int
) -> None:
    """An adapter that does as told: faults in every attempt until number ``good``, which succeeds."""
    m, world = Machine(plan, source=random.Random(seed)), World(plan)
    key = plan.candidates[0].key
    world.begin([key])
    m.handle(s.Begin(at=0.0, key=key))
    at, events = 0.0, 0
    for number, (fault, blocked, seconds) in enumerate(faults):
        if number == good:
            m.handle(s.Succeeded(at=at))
            break
        at += seconds
        last = world.carry_out(m.handle(s.Faulted(at=at, fault=fault, blocked=blocked)))
        while not isinstance(last, s.GiveUp) and m.state is not State.RUNNING:
            events += 1
            assert events < 100
            match last:
                case s.Wait(seconds=wait):
                    at += wait
                    last = world.carry_out(m.handle(s.Waited(at=at, blocked=blocked)))
                case s.StopAll():
                    last = world.carry_out(m.handle(s.Stopped(at=at, step=3)))
                case s.Restore(part=part, step=step):
                    assert step == 3
                    last = world.carry_out(m.handle(s.Restored(at=at, part=part)))
                case s.Resume():
                    m.handle(s.Resumed(at=at))
                case _:
                    m.handle(s.Started(at=at, attempt=m.attempt))
        if isinstance(last, s.GiveUp):
            assert last.fault is fault
            assert last.history == m.story
            break
    assert m.state in TERMINAL
    assert (m.outcome in ("failed", "not_retried")) == (m.state is State.GAVE_UP)
    assert len(world.orders) < MOST_ATTEMPTS


@settings(max_examples=100, deadline=None)
@given(plan=plans, seed=st.integers(0, 99), faults=st.lists(FAULTS, max_size=8))
def test_the_same_seed_gives_the_same_story(plan: Plan, seed: int, faults: list[type[errors.Fault]]) -> None:
    def play() -> list[object]:
        m, said = Machine(plan, source=random.Random(seed)), []
        m.handle(s.Begin(at=0.0, key=plan.candidates[0].key))
        for at, fault in enumerate(faults):
            if m.state in TERMINAL:
                break
            said.append(m.handle(s.Faulted(at=float(at), fault=fault)))
        return [*said, m.story]

    assert play() == play()
