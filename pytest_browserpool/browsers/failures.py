"""What is a fault and what is not: from what an adapter saw to a subclass of ``errors.Fault``, or to none.

An ``Observation`` is one thing that was seen: a message, an event, a closed socket, an ended process, a
deadline. ``diagnose`` finds the first rule that fits. Rules are tried in this order:

1. What we did ourselves (``expected``) is never a fault.
2. What the process table says beats any text: a dead browser explains everything else that was seen.
3. What a test did (assertions, wrong answers, bad input, a model the backend cannot run) is never a fault.
4. The table ``symptoms.RULES``, from the specific to the general.
5. What is left is no fault: an unknown message of onnxruntime-web is ``RunFailed``, anything else is
   unclassified. Retrying what nobody understands would hide defects, which the tests are there to find.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_browserpool import errors
from pytest_browserpool.browsers.symptoms import RULES, Observation, Origin, Phase
from pytest_browserpool.errors import BrowserPoolError, Fault


@dataclass(frozen=True)
class Diagnosis:
    """What an observation means: the error to raise, whether it is a fault, and why we think so."""

    error: type[BrowserPoolError] | None
    """None: not this package's error (an assertion, an exception of the test's own), or nothing wrong."""
    reason: str

    @property
    def fault(self) -> type[Fault] | None:
        """The fault, or None for what must not be retried."""
        return self.error if self.error is not None and issubclass(self.error, Fault) else None


_CLOSE_CODES: dict[int, tuple[type[BrowserPoolError] | None, str]] = {
    1001: (
        errors.PageCrashed,
        "the page's side went away: no cut wire says so, and such a page does not dial again",
    ),
    1008: (None, "the server turned the page away (wrong secret, host or origin): it will again"),
    1009: (errors.RunFailed, "a message above the server's limit: the next try sends the same one"),
}
"""Closes that a new connection would meet again, or that none follows. Any other that we did not cause is a lost
connection."""

_DEADLINES: dict[Phase, tuple[type[BrowserPoolError], str]] = {
    Phase.LAUNCH: (errors.LaunchFailed, "the browser did not start in time"),
    Phase.LOAD: (errors.PageHung, "the session was not there in time"),
    Phase.RUN: (errors.PageHung, "the run did not return: an endless loop or a kernel that never ends"),
    Phase.PING: (errors.PageHung, "the page's main thread does not answer"),
    Phase.GPU_PING: (errors.DeviceLost, "JavaScript answers, the GPU does not: its process is stopped"),
    Phase.BROWSER: (errors.BrowserCrashed, "the browser process is stopped: as good as gone, kill it"),
    Phase.IDLE: (errors.DeadlineExceeded, "nothing was running in the page"),
    Phase.WAIT: (errors.DeadlineExceeded, "no page was waited for"),
}

_EXITS: dict[str, type[Fault]] = {
    "browser": errors.BrowserCrashed,
    "driver": errors.BrowserCrashed,
    "renderer": errors.PageCrashed,
    "gpu": errors.DeviceLost,
}


def diagnose(seen: Observation) -> Diagnosis:
    """What ``seen`` means. Never raises; equal observations give equal diagnoses."""
    if seen.expected:
        return Diagnosis(None, "we caused it ourselves")
    if seen.origin is Origin.TEST:
        return Diagnosis(None, f"{seen.text or 'an exception'} of the test, which is what tests are for")
    if seen.phase is not Phase.LAUNCH:
        if seen.browser_alive is False:
            return Diagnosis(errors.BrowserCrashed, "the browser's process is gone")
        if seen.page_alive is False:
            return Diagnosis(errors.PageCrashed, "the page's process is gone, the browser lives")
    if seen.origin is Origin.DEADLINE:
        return Diagnosis(*_DEADLINES[seen.phase])
    if seen.origin is Origin.WEBSOCKET:
        return Diagnosis(
            *_CLOSE_CODES.get(seen.code or 0, (errors.ConnectionLost, "the page's socket closed"))
        )
    if seen.origin is Origin.EXIT:
        return _exit(seen)
    for rule in RULES:
        if rule.fits(seen):
            return Diagnosis(rule.error, rule.reason)
    if seen.origin is Origin.RUNTIME:
        return Diagnosis(errors.RunFailed, "onnxruntime-web raised and nothing says that the page is spoilt")
    return Diagnosis(None, "not known as a fault")


def _exit(seen: Observation) -> Diagnosis:
    if seen.phase is Phase.LAUNCH:
        return Diagnosis(errors.LaunchFailed, f"ended with status {seen.code} before the browser was up")
    fault = _EXITS.get(seen.text)
    if fault is None:
        return Diagnosis(None, f"no role {seen.text!r}; a process that serves no page")
    return Diagnosis(fault, f"the {seen.text} process ended with status {seen.code}")


def classify(seen: Observation) -> type[Fault] | None:
    """The fault that ``seen`` shows, or None for what must never be retried."""
    return diagnose(seen).fault


SEVERITY: tuple[type[Fault], ...] = (
    errors.ConnectionLost,
    errors.SessionRefused,
    errors.OutOfMemory,
    errors.DeviceLost,
    errors.PageHung,
    errors.PageCrashed,
    errors.LaunchFailed,
    errors.BrowserCrashed,
)
"""From the least to the most that is gone. A killed browser is seen as a closed socket, a closed page and a
lost browser within milliseconds: the last explains the others."""


def severity(fault: type[Fault]) -> int:
    """Rank of ``fault`` in ``SEVERITY``; a subclass of a listed fault ranks as that."""
    return next((rank for rank, known in enumerate(SEVERITY) if issubclass(fault, known)), len(SEVERITY))


def worst(seen: Iterable[Observation]) -> Diagnosis | None:
    """The diagnosis that explains all of ``seen``: the most severe fault, else the first error, else None.

    For observations that belong together, such as those of one failed call within a few milliseconds.
    """
    diagnoses = [diagnose(one) for one in seen]
    faults = [(severity(d.fault), d) for d in diagnoses if d.fault is not None]
    if faults:
        return max(faults, key=lambda pair: pair[0])[1]
    return next((d for d in diagnoses if d.error is not None), None)
