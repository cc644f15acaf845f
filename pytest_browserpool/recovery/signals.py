"""What the recovery machine hears (events), what it says (instructions), and the story it keeps.

``at`` is seconds on any monotonic clock; the machine never reads one. A *seat* is a place where a model can
run: one browser instance, or one that the pool could launch. A *part* is one piece of a model that is spread
over several seats; a whole model is the part ``""``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pytest_browserpool.errors import Fault


class Step(StrEnum):
    """What can be done about a fault. The values go into the history."""

    RETRY = "retry"
    """Again in the same page and session."""
    RELOAD = "reload_model"
    """A new page in the same browser, with the model loaded anew."""
    RESTART = "restart_browser"
    """A new process of the same browser."""
    MIGRATE = "migrate"
    """Another seat."""
    STANDBY = "use_standby"
    """Another seat that holds the model loaded already."""
    CPU = "run_on_cpu"
    """The wasm backend instead of the accelerator; the answer is then marked degraded."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A seat. ``key`` tells seats apart (two may be of one browser), ``browser`` and ``family`` are its
    names."""

    key: str
    browser: str
    family: str = ""
    standby: bool = False


# -- events --


@dataclass(frozen=True, kw_only=True)
class Begin:
    """The operation starts on seat ``key``; one of several parts, in dependency order, on the seats of
    ``parts``."""

    at: float
    key: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Started:
    """The step ordered as attempt number ``attempt`` was carried out and the attempt runs.

    ``key`` where the adapter took another seat than the suggested one; it must be a candidate that was not
    excluded.
    """

    at: float
    attempt: int
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Succeeded:
    """The operation has its answer."""

    at: float


@dataclass(frozen=True, kw_only=True)
class Faulted:
    """A fault was seen, in an attempt or in a step towards one.

    ``attempt``: the attempt it belongs to, None for the current one. One cause is often seen several times
    (socket, page, browser); with the number, what comes late is told from what is new.
    """

    at: float
    fault: type[Fault]
    part: str = ""
    attempt: int | None = None
    detail: str = ""
    blocked: frozenset[str] = frozenset()
    """Browser names whose circuit breaker is open, from ``Breakers.blocked``."""


@dataclass(frozen=True, kw_only=True)
class NotAFault:
    """The test's own: an assertion, bad input, an operator the backend lacks, a run that failed. Never
    retried."""

    at: float
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Waited:
    """The time of a ``Wait`` is over."""

    at: float
    blocked: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """The ordered step cannot be carried out (the pool is full, the standby is gone), and nothing was
    touched."""

    at: float
    reason: str
    part: str = ""
    blocked: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """All sound parts stand still; ``step`` is the last one for which every part has a checkpoint (0: the
    start)."""

    at: float
    step: int


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The part named by the last ``Restore`` is back at its step."""

    at: float
    part: str


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """All parts run again."""

    at: float


@dataclass(frozen=True, kw_only=True)
class TimeUp:
    """The time for recovery (``Machine.seconds_left``) is over."""

    at: float


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """Nobody wants the answer any more."""

    at: float


Event = (
    Begin
    | Started
    | Succeeded
    | Faulted
    | NotAFault
    | Waited
    | Unavailable
    | Stopped
    | Restored
    | Resumed
    | TimeUp
    | Cancelled
)

# -- the story --


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One line of the story: something that was tried and how it ended."""

    number: int
    action: str
    """``begin``, a ``Step``, or ``echo`` for a later sign of a fault that was answered already."""
    key: str
    browser: str
    began_at: float
    part: str = ""
    ended_at: float | None = None
    outcome: str = ""
    """``ok``, a fault's ``kind``, ``unavailable``, ``not_a_fault``, ``time_up`` or ``cancelled``; empty: not
    ended."""
    detail: str = ""
    refused: tuple[str, ...] = ()
    """Steps that the strategy wanted before this one, each with the reason why not."""

    def to_plain(self) -> dict[str, Any]:
        """As ``records.FaultRecord.attempts`` wants it, with what else is known."""
        seconds = None if self.ended_at is None else round(self.ended_at - self.began_at, 6)
        plain: dict[str, Any] = {
            "action": self.action,
            "browser": self.browser,
            "seconds": seconds,
            "outcome": self.outcome,
        }
        extra = {"seat": self.key, "part": self.part, "detail": self.detail, "refused": list(self.refused)}
        return plain | {name: value for name, value in extra.items() if value}


# -- instructions --


@dataclass(frozen=True, kw_only=True)
class Order:
    """A step to carry out, then to answer with ``Started``, ``Faulted`` or ``Unavailable``."""

    attempt: int
    key: str
    """The seat where the attempt is to run."""
    seconds: float
    """For the step and the attempt together; after that send ``Faulted`` with ``PageHung``."""
    on_cpu: bool = False
    """Whether the operation is on the CPU by now: load the model on the wasm backend, whatever the step."""


@dataclass(frozen=True, kw_only=True)
class Retry(Order):
    """Run again in the same page: its socket must be open and its queue empty."""


@dataclass(frozen=True, kw_only=True)
class ReloadModel(Order):
    """Open a new page in the same browser and load the model there."""


@dataclass(frozen=True, kw_only=True)
class RestartBrowser(Order):
    """End what is left of the browser, start it anew, load the model."""


@dataclass(frozen=True, kw_only=True)
class Migrate(Order):
    """Load and run on seat ``key``, or on another candidate outside ``exclude``; then say so in
    ``Started``."""

    exclude: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class UseStandby(Order):
    """Run on seat ``key``, which holds the model already."""


@dataclass(frozen=True, kw_only=True)
class RunOnCpu(Order):
    """Load on the wasm backend in a new page on seat ``key``; mark the answer degraded."""


@dataclass(frozen=True, kw_only=True)
class StopAll:
    """Bring ``parts`` (in dependency order) to a standstill at one step; answer ``Stopped``."""

    attempt: int
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Restore:
    """Carry out ``by`` for ``part``, restore its checkpoint of ``step``; answer ``Restored``."""

    part: str
    step: int
    by: Order


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Let ``parts`` go on from ``step``; answer ``Resumed``."""

    attempt: int
    parts: tuple[str, ...]
    step: int


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Do nothing for ``seconds``, then send ``Waited``."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class DropPage:
    """Close the page on seat ``key`` at once: it must never be used again."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RetireBrowser:
    """End every process of the browser instance on seat ``key`` at once: it must never be leased again."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Fail the operation with ``fault`` (None: it was not a fault) and the history of what was tried."""

    reason: str
    fault: type[Fault] | None
    history: tuple[Attempt, ...]


Instruction = Order | StopAll | Restore | Resume | Wait | DropPage | RetireBrowser | GiveUp
