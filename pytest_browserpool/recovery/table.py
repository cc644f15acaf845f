"""The rules of recovering one operation (one call, one load), the transition table, and its diagram.

- An operation begins once and ends once, ``done`` or ``gave_up``. Every story ends: attempts are limited,
  each step may be taken only so often on a seat, a seat that was left is never gone back to, and time is
  limited.
- A fault leads to a decision: the strategy suggests steps, ``choice.py`` refuses what must not be, the first
  one that remains is ordered. When none remains, or the limit is reached, the machine gives up with the
  history.
- What a fault leaves unusable is dropped in the same breath, even when the machine gives up: the next test
  must not get a hung page. A crash retires the browser instance at once.
- What is not a fault is never retried.
- A step that fails is a fault like any other: it leads to the next decision.
- Before it goes on where it just failed a second time, the machine waits (backoff). While it waits it hears
  of worse: a lost socket that turns out to be a dead browser is decided anew.
- One cause is seen several times. A sign that belongs to an attempt already answered is an echo: noted, not
  answered.
- In a coordinated recovery all sound parts stop first; then the lost ones are restored one after the other,
  in dependency order, to the last step that every part has a checkpoint of; then all resume.
- ``timeout`` bounds one attempt, the plan's limit bounds the recovery, counted from the first fault.
- An event that has no place in ``TABLE`` raises ``IllegalTransition`` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """Where an operation stands."""

    READY = "ready"
    RUNNING = "running"
    DECIDING = "deciding"
    """Passed through inside one ``handle``, never seen from outside."""
    WAITING = "waiting"
    STEPPING = "stepping"
    STOPPING = "stopping"
    RESTORING = "restoring"
    RESUMING = "resuming"
    DONE = "done"
    GAVE_UP = "gave_up"


class Signal(StrEnum):
    """What moves the machine: what events mean, and what decisions were made."""

    BEGIN = "begin"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAULT = "fault"
    ECHO = "echo"
    NOT_A_FAULT = "not a fault"
    WAITED = "waited"
    UNAVAILABLE = "unavailable"
    STOPPED = "stopped"
    RESTORED = "restored"
    RESTORED_ALL = "restored all"
    RESUMED = "resumed"
    TIME_UP = "time up"
    CANCELLED = "cancelled"
    WAIT = "decided to wait"
    STEP = "decided to step"
    STOP = "decided to stop all"
    GIVE_UP = "decided to give up"


_ENDS = {Signal.TIME_UP: State.GAVE_UP, Signal.CANCELLED: State.GAVE_UP}
"""What ends an operation from any state in which it is under way."""

TABLE: Mapping[State, Mapping[Signal, State]] = {
    State.READY: {Signal.BEGIN: State.RUNNING, Signal.CANCELLED: State.GAVE_UP},
    State.RUNNING: {
        Signal.SUCCEEDED: State.DONE,
        Signal.FAULT: State.DECIDING,
        Signal.NOT_A_FAULT: State.GAVE_UP,
        Signal.ECHO: State.RUNNING,
        **_ENDS,
    },
    State.DECIDING: {
        Signal.WAIT: State.WAITING,
        Signal.STEP: State.STEPPING,
        Signal.STOP: State.STOPPING,
        Signal.GIVE_UP: State.GAVE_UP,
    },
    State.WAITING: {
        Signal.WAITED: State.DECIDING,
        Signal.FAULT: State.DECIDING,
        Signal.ECHO: State.WAITING,
        **_ENDS,
    },
    State.STEPPING: {
        Signal.STARTED: State.RUNNING,
        Signal.FAULT: State.DECIDING,
        Signal.UNAVAILABLE: State.DECIDING,
        Signal.NOT_A_FAULT: State.GAVE_UP,
        Signal.ECHO: State.STEPPING,
        **_ENDS,
    },
    State.STOPPING: {
        Signal.STOPPED: State.RESTORING,
        Signal.FAULT: State.DECIDING,
        Signal.ECHO: State.STOPPING,
        **_ENDS,
    },
    State.RESTORING: {
        Signal.RESTORED: State.RESTORING,
        Signal.RESTORED_ALL: State.RESUMING,
        Signal.FAULT: State.DECIDING,
        Signal.UNAVAILABLE: State.DECIDING,
        Signal.NOT_A_FAULT: State.GAVE_UP,
        Signal.ECHO: State.RESTORING,
        **_ENDS,
    },
    State.RESUMING: {
        Signal.RESUMED: State.RUNNING,
        Signal.FAULT: State.DECIDING,
        Signal.ECHO: State.RESUMING,
        **_ENDS,
    },
    State.DONE: {Signal.ECHO: State.DONE},
    State.GAVE_UP: {Signal.ECHO: State.GAVE_UP},
}

TERMINAL = frozenset({State.DONE, State.GAVE_UP})
"""States in which the operation is over."""


def mermaid() -> str:
    """``TABLE`` as a Mermaid state diagram; the one in docs/recovery.md is this text."""
    lines = ["stateDiagram-v2", f"    state {State.DECIDING} <<choice>>", f"    [*] --> {State.READY}"]
    for state, signals in TABLE.items():
        labels: dict[State, list[str]] = {}
        for signal, after in signals.items():
            labels.setdefault(after, []).append(signal.value)
        lines += [f"    {state} --> {after}: {', '.join(words)}" for after, words in labels.items()]
    lines += [f"    {state} --> [*]" for state in TABLE if state in TERMINAL]
    return "\n".join(lines)
