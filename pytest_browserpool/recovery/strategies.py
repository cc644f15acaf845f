"""Strategies suggest the next step; the machine may refuse it (budget, breaker, a rule) and asks for the
next.

A strategy is any object with ``name``, ``coordinated`` and ``suggest``. It sees a ``Situation`` and yields
steps, best first. It decides nothing: what must never happen is in ``aftermath.py`` and ``machine.py``, where
no strategy reaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import ConfigurationError, Fault
from pytest_browserpool.recovery.signals import Step


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a strategy may look at when a fault hit ``part`` on seat ``key``."""

    fault: type[Fault]
    part: str
    key: str
    attempt: int
    """Attempts made so far."""
    taken_here: Mapping[Step, int]
    """Steps this operation took on this seat already."""
    moved: bool
    """Whether it left another seat behind."""
    elsewhere: tuple[str, ...]
    """Seats that a migration could go to, preferred first."""
    standbys: tuple[str, ...]
    """Those of them that hold the model already."""
    seconds_left: float


class Strategy(Protocol):
    """A recovery strategy."""

    @property
    def name(self) -> str:
        """Its name in the history."""

    @property
    def coordinated(self) -> bool:
        """Whether all parts stop at one step and resume from it together."""

    def suggest(self, situation: Situation) -> Iterable[Step]:
        """Steps worth trying, best first."""


_SAME_SEAT = (Step.RETRY, Step.RELOAD, Step.RESTART)
"""From the cheapest to the dearest: a retry costs a call, a reload a page and a session, a restart a launch
too."""


def _rungs(situation: Situation, first: Step = Step.RETRY) -> Iterator[Step]:
    """The steps on the same seat from ``first`` on that are dearer than any taken there."""
    highest = max((_SAME_SEAT.index(step) for step in situation.taken_here if step in _SAME_SEAT), default=-1)
    yield from _SAME_SEAT[max(highest + 1, _SAME_SEAT.index(first)) :]


_SECOND_CHANCE = (Step.RELOAD, Step.RESTART)
"""When nothing new is left: two independent faults may have hit the only browser there is."""


@dataclass(frozen=True)
class Progressive:
    """The cheapest step that may help, then ever dearer ones: retry, reload, restart, migrate, CPU.

    Only the first seat is climbed rung by rung. What failed there after a reload and a restart and fails
    elsewhere too is hardly the browser's doing, and the attempts are better spent on the seats that are left.
    """

    name: str = "progressive"
    coordinated: bool = False

    def suggest(self, situation: Situation) -> Iterator[Step]:
        if situation.moved:
            yield Step.RETRY
        else:
            yield from _rungs(situation)
        yield Step.MIGRATE
        yield Step.CPU
        yield from _SECOND_CHANCE


@dataclass(frozen=True)
class Immediate:
    """Away at once, to a standby if there is one; the same browser only where there is no other."""

    name: str = "immediate"
    coordinated: bool = False

    def suggest(self, situation: Situation) -> Iterator[Step]:
        yield Step.STANDBY
        yield Step.MIGRATE
        yield from _rungs(situation, Step.RELOAD)
        yield Step.CPU
        yield from _SECOND_CHANCE


@dataclass(frozen=True)
class Coordinated:
    """For models with state or in parts: restore the lost part from a checkpoint while the others stand
    still."""

    name: str = "coordinated"
    coordinated: bool = True

    def suggest(self, situation: Situation) -> Iterator[Step]:
        yield Step.STANDBY
        yield from _rungs(situation, Step.RELOAD)
        yield Step.MIGRATE
        yield from _SECOND_CHANCE


@dataclass(frozen=True)
class NoRecovery:
    """The first fault ends the operation."""

    name: str = "none"
    coordinated: bool = False

    def suggest(self, situation: Situation) -> Iterator[Step]:
        yield from ()


STRATEGIES: Mapping[str, Strategy] = {
    s.name: s for s in (Progressive(), Immediate(), Coordinated(), NoRecovery())
}
"""The built-in ones by name."""


def known(hooked: Iterable[Iterable[Strategy] | None]) -> Mapping[str, Strategy]:
    """The built-in ones and those that hooks return (a list, or None, for each hook), by name.

    Raises:
        ConfigurationError: something that is no strategy.
    """
    found = dict(STRATEGIES)
    for one in (strategy for group in hooked if group for strategy in group):
        name = getattr(one, "name", None)
        if not (isinstance(name, str) and name and isinstance(getattr(one, "coordinated", None), bool)):
            raise ConfigurationError(
                f"{one!r} is no recovery strategy",
                where="pytest_browserpool_recovery_strategies",
                remedy="give it a name (str), coordinated (bool) and suggest(situation)",
            )
        found[name] = one
    return found


def choose(
    marker: str | None, setting: str, priority: int, among: Mapping[str, Strategy] = STRATEGIES
) -> Strategy:
    """The strategy of an operation: what the marker says, else the run's setting.

    Where the setting is the default ``progressive``, priorities 1 and 2 get ``immediate``: their 15 s do not
    suffice to climb a ladder.

    Raises:
        ConfigurationError: no strategy has that name.
    """
    name = marker or ("immediate" if setting == "progressive" and priority <= 2 else setting)
    strategy = among.get(name)
    if strategy is None:
        raise ConfigurationError(
            f"recovery strategy {name!r} is unknown{did_you_mean(name, among)}",
            where="the model marker's recovery=, --browserpool-recovery or browserpool_recovery",
            remedy=f"one of {', '.join(sorted(among))}",
        )
    return strategy
