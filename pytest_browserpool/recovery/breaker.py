"""The circuit breaker of one browser name on one node: time is passed in, nothing waits.

- closed: everything may run. ``failures_to_open`` failures in a row open it; a success of the same browser starts
  the count anew, so that one fault in fifty operations never adds up. An operation that met a fault in a browser is
  never a success of it, even where recovery got its answer there: else a browser that crashes at every operation,
  and is restarted for each, would never open its breaker.
- open: nothing may run for ``open_seconds``.
- half-open, from the first question after that: at most ``trials`` operations at once may try. Recovery's attempts hold
  a ticket, a model that is loaded there at first holds one (``Trials``) for as long as it stays.
  ``successes_to_close`` of them close it, the first failure opens it for another ``open_seconds``.

What comes from an operation that began before the breaker opened is not evidence about now, and is ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Circuit(StrEnum):
    """State of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, kw_only=True)
class BreakerSettings:
    """Defaults with their reasons."""

    failures_to_open: int = 5
    """More than one operation's own attempts on one browser (three): one bad model alone opens nothing."""
    open_seconds: float = 30.0
    """Ten cold launches: time for a machine short of memory to come to rest."""
    trials: int = 1
    """What has failed five times in a row may fail again: that is to cost one operation, not all that begin meanwhile."""
    successes_to_close: int = 3
    """One success may be luck."""


@dataclass
class Breaker:
    """Ask ``allows``, take ``acquire``, then report ``success``, ``failure`` or ``abandon`` exactly once.

    ``at`` is seconds on any monotonic clock.
    """

    settings: BreakerSettings = field(default_factory=BreakerSettings)
    circuit: Circuit = Circuit.CLOSED
    failures: int = 0
    """In a row, while closed."""
    successes: int = 0
    """While half-open."""
    in_flight: int = 0
    """Trials taken and not yet reported, while half-open."""
    opened_at: float = 0.0
    openings: int = 0
    """How often it opened; also the mark that tells old operations from trials."""
    changed: Callable[[Circuit], None] = field(default=lambda circuit: None, compare=False, repr=False)
    """Told when it opens and when it closes."""

    @property
    def pristine(self) -> bool:
        """Whether a success would change nothing: the usual case, which a warm call asks for."""
        return self.circuit is Circuit.CLOSED and not self.failures

    def allows(self, at: float) -> bool:
        """Whether an operation may start now. Changes nothing but open → half-open when its time has come."""
        self._age(at)
        if self.circuit is Circuit.HALF_OPEN:
            return self.in_flight < self.settings.trials
        return self.circuit is Circuit.CLOSED

    def acquire(self, at: float, *, forced: bool = False) -> int | None:
        """A ticket to be given back with the outcome, or None when the breaker does not allow it.

        ``forced``: the last candidate runs in any case; while open its outcome is no trial.
        """
        if not self.allows(at) and not forced:
            return None
        if self.circuit is Circuit.HALF_OPEN:
            self.in_flight += 1
        return self.openings if self.circuit is not Circuit.OPEN else -1

    def success(self, at: float, ticket: int) -> None:
        """An operation that held ``ticket`` went well."""
        if not self._fresh(at, ticket):
            return
        if self.circuit is Circuit.CLOSED:
            self.failures = 0
            return
        self.in_flight -= 1
        self.successes += 1
        if self.successes >= self.settings.successes_to_close:
            self.circuit, self.failures, self.in_flight = Circuit.CLOSED, 0, 0
            self.changed(self.circuit)

    def failure(self, at: float, ticket: int) -> None:
        """An operation that held ``ticket`` met a fault. A crash counts as one failure, whatever it took with
        it."""
        if not self._fresh(at, ticket):
            return
        self.failures += 1
        if self.circuit is Circuit.HALF_OPEN or self.failures >= self.settings.failures_to_open:
            self.circuit, self.opened_at = Circuit.OPEN, at
            self.failures = self.successes = self.in_flight = 0
            self.openings += 1
            self.changed(self.circuit)

    def met(self, at: float, began: float, *, ok: bool) -> None:
        """How an operation without a ticket ended: one in the browser that was chosen for it at first, of which nobody
        asks before each call. It counts as if it had held one, unless it ``began`` before the breaker last opened."""
        if self.openings and began < self.opened_at:
            return
        ticket = self.acquire(at, forced=True)
        assert ticket is not None
        (self.success if ok else self.failure)(at, ticket)

    def abandon(self, at: float, ticket: int) -> None:
        """An operation that held ``ticket`` was cancelled: it proves nothing, and its trial is free again."""
        if self._fresh(at, ticket) and self.circuit is Circuit.HALF_OPEN:
            self.in_flight -= 1

    def _age(self, at: float) -> None:
        if self.circuit is Circuit.OPEN and at - self.opened_at >= self.settings.open_seconds:
            self.circuit, self.successes, self.in_flight = Circuit.HALF_OPEN, 0, 0

    def _fresh(self, at: float, ticket: int) -> bool:
        self._age(at)
        return ticket == self.openings and self.circuit is not Circuit.OPEN


class Breakers:
    """One breaker per browser name of a node."""

    def __init__(
        self,
        settings: BreakerSettings | None = None,
        changed: Callable[[str, Circuit], None] = lambda browser, circuit: None,
    ) -> None:
        """``changed(browser, circuit)`` is told when one opens or closes."""
        self._settings = settings or BreakerSettings()
        self._changed = changed
        self._breakers: dict[str, Breaker] = {}

    def of(self, browser: str) -> Breaker:
        """The breaker of the browser called ``browser``."""
        if browser not in self._breakers:
            told = functools.partial(self._changed, browser)
            self._breakers[browser] = Breaker(self._settings, changed=told)
        return self._breakers[browser]

    def pristine(self, browser: str) -> bool:
        """Whether a success in that browser would change nothing. Cheap: it is asked after every call."""
        known = self._breakers.get(browser)
        return known is None or known.pristine

    def circuits(self, at: float) -> dict[str, Circuit]:
        """The state of each breaker that has counted a fault, by browser name."""
        for breaker in self._breakers.values():
            breaker.allows(at)
        return {name: breaker.circuit for name, breaker in self._breakers.items()}

    def refusing(self, at: float) -> frozenset[str]:
        """The browsers that may not be used now, as long as there are others."""
        return frozenset(name for name, breaker in [*self._breakers.items()] if not breaker.allows(at))

    def blocked(self, at: float, candidates: Iterable[str]) -> frozenset[str]:
        """Which of ``candidates`` (browser names) may not be used now; empty when it would be all of them.

        The last candidate is never blocked: a try that may fail beats a failure that is certain.
        """
        names = frozenset(candidates)
        blocked = names & self.refusing(at)
        return frozenset() if blocked == names else blocked


class Trials:
    """Of one model: where it was sent while the breaker was half-open. Nobody else is sent there until it has left.

    What comes of its calls is told as of any other (``Breaker.met``); its tickets only keep the place.
    """

    def __init__(self, breakers: Breakers) -> None:
        self._breakers = breakers
        self._held: list[tuple[Breaker, int]] = []

    def enter(self, at: float, browser: str) -> None:
        """It is about to be loaded in that browser."""
        if self._breakers.pristine(browser):
            return
        breaker = self._breakers.of(browser)
        breaker.allows(at)
        if breaker.circuit is Circuit.HALF_OPEN:
            ticket = breaker.acquire(at, forced=True)  # the last candidate runs though another one is at it
            assert ticket is not None
            self._held.append((breaker, ticket))

    def leave(self, at: float) -> None:
        """It is nowhere any more. May be called again."""
        held, self._held = self._held, []
        for breaker, ticket in held:
            breaker.abandon(at, ticket)
