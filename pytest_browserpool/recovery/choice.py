"""Which step comes next: the strategy suggests, these rules refuse.

1. Never a step that the fault forbids on its seat (``aftermath.py``).
2. Never a step more often than ``CAPS`` allows on one seat, so that every story ends.
3. Never a seat that was left behind, that another part holds, or whose breaker is open while another seat is
   free.
4. Never a step that needs more time than is left.
5. The CPU only where the test allowed it, once, for one whole model, and not instead of wasm: it is wasm. A
   coordinated recovery promises the same bits, and another processor rounds otherwise.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_browserpool.errors import Fault
from pytest_browserpool.recovery.aftermath import aftermath
from pytest_browserpool.recovery.limits import Backoff, Limit, default_limit
from pytest_browserpool.recovery.signals import Attempt, Candidate, Step
from pytest_browserpool.recovery.strategies import Progressive, Situation, Strategy

CAPS: Mapping[Step, int] = {
    Step.RETRY: 1,  # a connection that breaks twice in one page is not chance
    Step.RELOAD: 2,  # two independent faults may hit the only browser there is
    Step.RESTART: 2,  # the same
    Step.MIGRATE: 1,
    Step.STANDBY: 1,
    Step.CPU: 1,
}
"""How often one operation may take a step on (or to) one seat."""

MOST_SUGGESTIONS = 32
"""Suggestions looked at per decision: a user's strategy may yield for ever."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What does not change during one operation."""

    candidates: tuple[Candidate, ...]
    """Every seat where the model may run, preferred first."""
    strategy: Strategy = field(default_factory=Progressive)
    priority: int = 3
    timeout: float = 60.0
    """Seconds for one attempt."""
    fallback: str | None = None
    backend: str = ""
    """The backend in use; ``wasm`` leaves no CPU to fall back to."""
    costs: Mapping[Step, float] = field(default_factory=dict)
    """Seconds that a step is expected to take before the attempt itself can start, as far as measured."""
    limit: Limit | None = None
    """None: ``default_limit`` with the timeout and the dearest step's cost as what one attempt needs."""
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        keys = [c.key for c in self.candidates]
        if not keys or len(set(keys)) != len(keys):
            raise ValueError(f"candidates need distinct keys and at least one, got {keys}")

    @property
    def bounds(self) -> Limit:
        """The limit in force."""
        return self.limit or default_limit(self.timeout + max(self.costs.values(), default=0.0))

    def candidate(self, key: str) -> Candidate:
        """The candidate of seat ``key``; KeyError where there is none."""
        for one in self.candidates:
            if one.key == key:
                return one
        raise KeyError(f"no candidate {key!r}; known: {', '.join(c.key for c in self.candidates)}")


@dataclass(frozen=True)
class Progress:
    """What changes: one immutable value per moment."""

    at: float = float("-inf")
    attempt: int = 0
    seats: Mapping[str, str] = field(default_factory=dict)
    """Part → seat, in dependency order."""
    lost: Mapping[str, type[Fault]] = field(default_factory=dict)
    """Parts that wait for recovery → their fault."""
    taken: Mapping[tuple[str, Step], int] = field(default_factory=dict)
    left: frozenset[str] = frozenset()
    """Seats that were left behind."""
    first_fault_at: float | None = None
    on_cpu: bool = False
    story: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A step for ``part``: it will run on seat ``key``."""

    part: str
    step: Step
    key: str
    origin: str
    """The seat of the fault."""
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """One decision's surroundings: the browsers with an open breaker, the time left, seats promised to
    others."""

    blocked: frozenset[str]
    seconds_left: float
    promised: frozenset[str] = frozenset()


def excluded(now: Progress) -> frozenset[str]:
    """Seats that no part can move to: left behind or held."""
    return now.left | frozenset(now.seats.values())


def _elsewhere(plan: Plan, now: Progress, part: str, setting: Setting) -> tuple[Candidate, ...]:
    out = excluded(now) | setting.promised
    free = [c for c in plan.candidates if c.key not in out and not now.taken.get((c.key, Step.MIGRATE))]
    unblocked = [c for c in free if c.browser not in setting.blocked]
    return tuple(sorted(unblocked, key=lambda c: not c.standby))


def choose(plan: Plan, now: Progress, part: str, setting: Setting) -> Choice | tuple[str, ...]:
    """The first suggested step that no rule refuses, or the reasons why there is none.

    Open breakers steer, but never block the last candidate: when they leave nothing, they do not count.
    """
    found = _choose(plan, now, part, setting)
    if isinstance(found, Choice) or not setting.blocked:
        return found
    return _choose(plan, now, part, dataclasses.replace(setting, blocked=frozenset()))


def _choose(plan: Plan, now: Progress, part: str, setting: Setting) -> Choice | tuple[str, ...]:
    key, fault = now.seats[part], now.lost[part]
    others = _elsewhere(plan, now, part, setting)
    standbys = [c.key for c in others if c.standby and not now.taken.get((c.key, Step.STANDBY))]
    situation = Situation(
        fault=fault,
        part=part,
        key=key,
        attempt=now.attempt,
        taken_here={step: n for (seat, step), n in now.taken.items() if seat == key},
        moved=bool(now.left),
        elsewhere=tuple(c.key for c in others),
        standbys=tuple(standbys),
        seconds_left=setting.seconds_left,
    )
    refused: list[str] = []
    for step in itertools.islice(plan.strategy.suggest(situation), MOST_SUGGESTIONS):
        target = _target(step, situation)
        reason = "no other seat is left" if target is None else _refusal(plan, now, situation, step, setting)
        if reason is None and target is not None:
            return Choice(part, step, target, key, tuple(refused))
        refused.append(f"{step}: {reason}")
    return tuple(refused) or (f"strategy {plan.strategy.name} suggests nothing",)


def _target(step: Step, situation: Situation) -> str | None:
    match step:
        case Step.MIGRATE:
            return next(iter(situation.elsewhere), None)
        case Step.STANDBY:
            return next(iter(situation.standbys), None)
        case Step.CPU:
            # wasm runs in any browser; one that just failed is the last choice
            return next(iter(situation.elsewhere), situation.key)
        case _:
            return situation.key


def _refusal(plan: Plan, now: Progress, situation: Situation, step: Step, setting: Setting) -> str | None:
    """Why ``step`` must not be taken, or None."""
    here = plan.candidate(situation.key)
    if step in _STAYING:
        after = aftermath(situation.fault)
        if step in after.forbidden:
            return f"forbidden after {situation.fault.kind}: {after.why}"
        if situation.taken_here.get(step, 0) >= CAPS[step]:
            return f"taken {CAPS[step]} times on {situation.key}"
        if here.browser in setting.blocked and situation.elsewhere:
            return f"the circuit breaker of {here.browser} is open and {situation.elsewhere[0]} is free"
    if step is Step.CPU and (reason := _no_cpu(plan, now)):
        return reason
    if now.on_cpu and step in (Step.MIGRATE, Step.STANDBY):
        return "already on the CPU, which another browser does not change"
    cost = plan.costs.get(step, 0.0)
    if cost >= setting.seconds_left:
        return f"needs {cost:g} s, {setting.seconds_left:.1f} s are left"
    return None


_STAYING = frozenset({Step.RETRY, Step.RELOAD, Step.RESTART})


def _no_cpu(plan: Plan, now: Progress) -> str | None:
    if plan.fallback != "cpu":
        return 'not allowed: the marker has no fallback="cpu"'
    if plan.backend == "wasm" or now.on_cpu:
        return "already on the CPU"
    if any(step is Step.CPU for _, step in now.taken):
        return "the CPU could not be had"
    if plan.strategy.coordinated or len(now.seats) > 1:
        return "a coordinated recovery promises the same bits, and the CPU rounds otherwise"
    return None
