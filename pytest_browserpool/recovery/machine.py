"""The machine that recovers one operation: events in, instructions out, by the table of ``table.py``."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from pytest_browserpool.browsers.failures import severity
from pytest_browserpool.errors import Fault, PageHung
from pytest_browserpool.recovery import signals as s
from pytest_browserpool.recovery.aftermath import Lost, aftermath, dropped
from pytest_browserpool.recovery.choice import Choice, Plan, Progress, Setting, choose, excluded
from pytest_browserpool.recovery.limits import Spent
from pytest_browserpool.recovery.signals import Attempt, Step
from pytest_browserpool.recovery.story import closed, echo, reseated
from pytest_browserpool.recovery.table import TABLE, TERMINAL, Signal, State

_ORDERS: Mapping[Step, type[s.Order]] = {
    Step.RETRY: s.Retry,
    Step.RELOAD: s.ReloadModel,
    Step.RESTART: s.RestartBrowser,
    Step.STANDBY: s.UseStandby,
    Step.CPU: s.RunOnCpu,
}


class IllegalTransition(RuntimeError):  # noqa: N818 - named as those in errors.py
    """An adapter sent an event that has no place here: a defect of ours. The machine is as it was."""

    def __init__(self, state: State, event: object, why: str, story: tuple[Attempt, ...]) -> None:
        self.state, self.event, self.why, self.story = state, event, why, story
        lines = "".join(f"\n  {a.number}. {a.action} on {a.key}: {a.outcome or 'under way'}" for a in story)
        super().__init__(f"{event!r} in state {state}: {why}{lines}")


class Machine:
    """Recovers one operation. Not shared between operations; every change goes through ``handle``.

    Make one at the first fault, with a ``Begin`` that carries the time at which the operation began: an
    operation without faults then costs nothing.
    """

    def __init__(self, plan: Plan, *, source: random.Random) -> None:
        """``source`` is drawn from for the jitter of waits only; seed it and the machine is deterministic."""
        self._plan, self._source = plan, source
        self._state, self._now = State.READY, Progress()
        self._choices: tuple[Choice, ...] = ()
        self._step = 0
        self._ended_as = ""

    @property
    def state(self) -> State:
        """Where the operation stands."""
        return self._state

    @property
    def attempt(self) -> int:
        """The number of the attempt under way or ordered; 1 is the first."""
        return self._now.attempt

    @property
    def seats(self) -> Mapping[str, str]:
        """Part → seat; the whole model is the part ``""``."""
        return dict(self._now.seats)

    @property
    def story(self) -> tuple[Attempt, ...]:
        """Everything that was tried so far, in order."""
        return self._now.story

    @property
    def degraded(self) -> bool:
        """Whether the operation went to the CPU instead of its backend."""
        return self._now.on_cpu

    @property
    def recoveries(self) -> int:
        """Steps ordered."""
        return max(0, self._now.attempt - 1)

    @property
    def outcome(self) -> str:
        """Empty while under way; then ``clean``, ``recovered``, ``degraded``, ``failed``, ``not_retried``,
        ``cancelled``."""
        return self._ended_as

    def seconds_left(self, at: float) -> float:
        """Until recovery must be over, seen from ``at``; ``inf`` before the first fault."""
        if self._now.first_fault_at is None:
            return float("inf")
        return self._plan.bounds.seconds_left(dataclasses.replace(self._spent(at), attempts=0))

    def handle(self, event: s.Event) -> list[s.Instruction]:
        """What to do about ``event``, in the order in which it must be done.

        Raises:
            IllegalTransition: the event has no place in this state, time ran backwards, or it names what
                does not exist. Nothing changed.
        """
        before = dict(self.__dict__)
        try:
            if event.at < self._now.at:
                raise self._illegal(event, f"time ran backwards, it was {self._now.at}")
            self._now = dataclasses.replace(self._now, at=event.at)
            return self._dispatch(event)
        except BaseException:
            self.__dict__.update(before)
            raise

    # -- events --

    def _dispatch(self, event: s.Event) -> list[s.Instruction]:
        match event:
            case s.Begin():
                return self._begin(event)
            case s.Faulted():
                return self._faulted(event)
            case s.Started():
                return self._started(event)
            case s.Succeeded():
                self._go(Signal.SUCCEEDED, event)
                self._close("ok")
                self._ended_as = "degraded" if self.degraded else "recovered" if self.recoveries else "clean"
                return []
            case s.NotAFault():
                self._go(Signal.NOT_A_FAULT, event)
                self._close("not_a_fault", event.error)
                return self._end("not_retried", event.error or "not a fault", None)
            case s.Waited():
                self._go(Signal.WAITED, event)
                return self._decide(event, event.blocked, waited=True)
            case s.Unavailable():
                return self._unavailable(event)
            case s.Stopped():
                return self._stopped(event)
            case s.Restored():
                return self._restored(event)
            case s.Resumed():
                self._go(Signal.RESUMED, event)
                return []
            case s.TimeUp() | s.Cancelled():
                return self._cut(event)

    def _begin(self, event: s.Begin) -> list[s.Instruction]:
        self._go(Signal.BEGIN, event)
        seats = dict(event.parts) or {"": event.key}
        if len(seats) > 1 and not self._plan.strategy.coordinated:
            raise self._illegal(event, f"{len(seats)} parts need a coordinated strategy")
        for part, key in seats.items():
            self._known(event, key)
            self._open("begin", part, key, number=1)
        self._now = dataclasses.replace(self._now, attempt=1, seats=seats)
        return []

    def _started(self, event: s.Started) -> list[s.Instruction]:
        self._go(Signal.STARTED, event)
        if event.attempt != self.attempt:
            raise self._illegal(event, f"attempt {self.attempt} was ordered")
        (choice,) = self._choices
        if event.key is not None and event.key != choice.key:
            self._took_another_seat(event, choice, event.key)
        self._now = dataclasses.replace(self._now, lost={})
        return []

    def _took_another_seat(self, event: s.Started, choice: Choice, key: str) -> None:
        self._known(event, key)
        if choice.step is not Step.MIGRATE or key in excluded(self._now):
            raise self._illegal(event, f"{choice.step} cannot go to {key}")
        browser = self._plan.candidate(key).browser
        taken = {seat: n for seat, n in self._now.taken.items() if seat != (choice.key, choice.step)}
        self._now = dataclasses.replace(
            self._now,
            seats={**self._now.seats, choice.part: key},
            taken={**taken, (key, choice.step): 1},
            story=reseated(self.story, self.attempt, key, browser),
        )

    def _faulted(self, event: s.Faulted) -> list[s.Instruction]:
        if self._is_echo(event):
            self._go(Signal.ECHO, event)
            self._note(event)
            return []  # nothing is dropped: the seat may hold a new page or browser by now
        fault = self._gravest(event)
        self._go(Signal.FAULT, event)
        if event.part not in self._now.seats:
            raise self._illegal(event, f"no part {event.part!r}")
        if event.attempt is not None and event.attempt != self.attempt:
            raise self._illegal(event, f"attempt {self.attempt} is the current one")
        if not self._close(event.fault.kind, event.detail, event.part):
            self._note(event)
        first = event.at if self._now.first_fault_at is None else self._now.first_fault_at
        lost = {**self._now.lost, event.part: fault}
        self._now = dataclasses.replace(self._now, lost=lost, first_fault_at=first)
        return [*dropped(self._now.seats[event.part], event.fault), *self._decide(event, event.blocked)]

    def _gravest(self, event: s.Faulted) -> type[Fault]:
        """While the sound parts stop nothing is done for a lost one yet: a milder sign does not bring it back."""
        known = self._now.lost.get(event.part) if self.state is State.STOPPING else None
        return event.fault if known is None or severity(event.fault) > severity(known) else known

    def _is_echo(self, event: s.Faulted) -> bool:
        if event.part not in self._now.seats:
            return False
        if event.attempt is not None and event.attempt < self.attempt:
            return True
        if self.state in TERMINAL:
            return event.attempt == self.attempt
        if self.state is State.STOPPING and any(
            c.part == event.part and c.key != c.origin for c in self._choices
        ):
            # nothing was begun yet in the seat that the part goes to: it is of the one that it leaves
            return True
        known = self._now.lost.get(event.part)
        # while waiting, a worse sign of the same cause is answered anew: a lost socket that was a dead
        # browser
        return self.state is State.WAITING and known is not None and severity(event.fault) <= severity(known)

    def _unavailable(self, event: s.Unavailable) -> list[s.Instruction]:
        self._go(Signal.UNAVAILABLE, event)
        choice = next((c for c in self._choices if c.part == event.part), None)
        if choice is None or event.part not in self._now.lost:
            raise self._illegal(event, f"nothing was ordered for part {event.part!r}")
        self._close("unavailable", event.reason, event.part)
        # nothing was touched, so the part is back where its fault left it
        seats = {**self._now.seats, choice.part: choice.origin}
        on_cpu = self._now.on_cpu and choice.step is not Step.CPU
        left = self._now.left - {choice.origin}
        self._now = dataclasses.replace(self._now, seats=seats, left=left, on_cpu=on_cpu)
        return self._decide(event, event.blocked)

    def _stopped(self, event: s.Stopped) -> list[s.Instruction]:
        self._go(Signal.STOPPED, event)
        if event.step < 0:
            raise self._illegal(event, f"step {event.step} is below 0")
        self._step = event.step
        return [self._restore(event)]

    def _restored(self, event: s.Restored) -> list[s.Instruction]:
        part = next((p for p in self._now.seats if p in self._now.lost), None)
        if event.part != part or self.state is not State.RESTORING:
            raise self._illegal(event, f"part {part!r} is to be restored")
        left = {p: f for p, f in self._now.lost.items() if p != part}
        self._now = dataclasses.replace(self._now, lost=left)
        if left:
            self._go(Signal.RESTORED, event)
            return [self._restore(event)]
        self._go(Signal.RESTORED_ALL, event)
        return [s.Resume(attempt=self.attempt, parts=tuple(self._now.seats), step=self._step)]

    def _cut(self, event: s.TimeUp | s.Cancelled) -> list[s.Instruction]:
        busy = self.state not in (State.READY, State.WAITING)
        time_up = isinstance(event, s.TimeUp)
        self._go(Signal.TIME_UP if time_up else Signal.CANCELLED, event)
        if time_up and self.seconds_left(event.at) > 0:
            raise self._illegal(event, f"{self.seconds_left(event.at):.3f} s are left")
        reason = "the time for recovery is over" if time_up else "cancelled"
        # what was begun there may still run, and runs of one page must not overlap
        drops = [s.DropPage(key=key, reason=reason) for key in self._now.seats.values() if busy]
        fault = self._worst() or (PageHung if time_up else None)
        self._close("time_up" if time_up else "cancelled")
        return [*drops, *self._end(self._failed() if time_up else "cancelled", reason, fault)]

    # -- decisions --

    def _decide(
        self, event: s.Event, blocked: frozenset[str], *, waited: bool = False
    ) -> list[s.Instruction]:
        spent = self._spent(event.at)
        if reason := self._plan.bounds.reached(spent):
            return self._give_up(event, reason)
        left = self._plan.bounds.seconds_left(spent)
        choices: list[Choice] = []
        for part in (p for p in self._now.seats if p in self._now.lost):
            setting = Setting(blocked, left, frozenset(c.key for c in choices))
            found = choose(self._plan, self._now, part, setting)
            if not isinstance(found, Choice):
                return self._give_up(event, "nothing is left to try: " + "; ".join(found))
            choices.append(found)
        # another seat did nothing wrong: only where it just failed is there something to wait for
        if not waited and any(c.key == c.origin for c in choices):
            seconds = self._plan.backoff.delay(self.recoveries, self._source)
            if 0 < seconds < left - max(self._plan.costs.get(c.step, 0.0) for c in choices):
                self._go(Signal.WAIT, event)
                return [s.Wait(seconds=seconds)]
        return self._order(event, tuple(choices))

    def _order(self, event: s.Event, choices: tuple[Choice, ...]) -> list[s.Instruction]:
        now = self._now
        taken = dict(now.taken)
        for c in choices:
            taken[c.key, c.step] = taken.get((c.key, c.step), 0) + 1
        self._choices = choices
        self._now = dataclasses.replace(
            now,
            attempt=now.attempt + 1,
            seats={**now.seats, **{c.part: c.key for c in choices}},
            taken=taken,
            left=now.left | {c.origin for c in choices if c.key != c.origin},
            on_cpu=now.on_cpu or any(c.step is Step.CPU for c in choices),
        )
        for c in choices:
            self._open(c.step.value, c.part, c.key, refused=c.refused)
        if self._plan.strategy.coordinated:
            self._go(Signal.STOP, event)
            sound = tuple(p for p in now.seats if p not in now.lost)
            return [s.StopAll(attempt=self.attempt, parts=sound)]
        self._go(Signal.STEP, event)
        return [self._instruction(choices[0], event.at)]

    def _instruction(self, choice: Choice, at: float) -> s.Order:
        allowed = self._plan.timeout + self._plan.costs.get(choice.step, 0.0)
        seconds = min(allowed, self.seconds_left(at))
        if choice.step is Step.MIGRATE:
            exclude = excluded(self._now) - {choice.key}
            return s.Migrate(attempt=self.attempt, key=choice.key, seconds=seconds, exclude=exclude)
        return _ORDERS[choice.step](
            attempt=self.attempt, key=choice.key, seconds=seconds, on_cpu=self._now.on_cpu
        )

    def _restore(self, event: s.Event) -> s.Restore:
        part = next(p for p in self._now.seats if p in self._now.lost)
        choice = next(c for c in self._choices if c.part == part)
        return s.Restore(part=part, step=self._step, by=self._instruction(choice, event.at))

    # -- ends and the story --

    def _give_up(self, event: s.Event, reason: str) -> list[s.Instruction]:
        self._go(Signal.GIVE_UP, event)
        fault = self._worst()
        self._close("stopped", "another part could not be recovered")
        drops: list[s.Instruction] = []
        if fault is not None and aftermath(fault).lost is Lost.NOTHING:
            # nobody will look after the run that is lost in that page; the next test must not meet it
            drops = [s.DropPage(key=key, reason="given up") for key in self._now.seats.values()]
        return [*drops, *self._end(self._failed(), reason, fault)]

    def _failed(self) -> str:
        return "failed" if self.recoveries else "not_retried"

    def _worst(self) -> type[Fault] | None:
        return max(self._now.lost.values(), key=severity, default=None)

    def _end(self, outcome: str, reason: str, fault: type[Fault] | None) -> list[s.Instruction]:
        self._ended_as = outcome
        return [s.GiveUp(reason=reason, fault=fault, history=self.story)]

    def _spent(self, at: float) -> Spent:
        first = self._now.first_fault_at
        seconds = 0.0 if first is None else at - first
        return Spent(seconds=seconds, attempts=self.attempt, priority=self._plan.priority)

    def _open(
        self, action: str, part: str, key: str, *, number: int = 0, refused: tuple[str, ...] = ()
    ) -> None:
        line = Attempt(
            number=number or self.attempt,
            action=action,
            key=key,
            browser=self._plan.candidate(key).browser,
            began_at=self._now.at,
            part=part,
            refused=refused,
        )
        self._now = dataclasses.replace(self._now, story=(*self.story, line))

    def _close(self, outcome: str, detail: str = "", part: str | None = None) -> bool:
        """End the open lines of ``part`` (None: of all parts); whether there was one."""
        before = self.story
        after = closed(before, self._now.at, outcome, detail, part)
        self._now = dataclasses.replace(self._now, story=after)
        return after != before

    def _note(self, event: s.Faulted) -> None:
        """A line for a sign of a fault that no open line is about."""
        key = self._now.seats[event.part]
        line = echo(event, self.attempt, key, self._plan.candidate(key).browser)
        self._now = dataclasses.replace(self._now, story=(*self.story, line))

    # -- guards --

    def _go(self, signal: Signal, event: s.Event) -> None:
        after = TABLE[self._state].get(signal)
        if after is None:
            raise self._illegal(event, f"{signal.value!r} has no place there")
        self._state = after

    def _known(self, event: s.Event, key: str) -> None:
        if all(c.key != key for c in self._plan.candidates):
            raise self._illegal(event, f"no candidate {key!r}")

    def _illegal(self, event: s.Event, why: str) -> IllegalTransition:
        return IllegalTransition(self._state, event, why, self.story)
