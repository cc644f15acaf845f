"""The exception tree.

Every error says what was wrong (with the value), where, and what to do about it::

    BrowserPoolError
    ├── UsageError                  the test or the configuration is wrong; never retried, no browser is lost
    │   ├── MarkerError             @pytest.mark.model(...) with an unknown keyword or value
    │   ├── ConfigurationError      an option, ini value or pyproject table
    │   ├── SourceError             the model's source cannot be read
    │   │   ├── HashMismatch        the bytes are not the ones that were pinned
    │   │   └── InvalidModel        the bytes are not an ONNX model
    │   ├── InputError              wrong input name, dtype or shape
    │   ├── ShardingError           the model cannot be cut as asked
    │   └── UnsupportedOperator     the model has an operator that the backend lacks
    ├── CapabilityError             nothing here qualifies
    │   ├── NoNode                  no node of the run can run the test
    │   ├── NoBrowser               no wanted browser exists on this node
    │   └── BackendRefused          asked for, but onnxruntime did not run the model on it
    ├── Fault                       the infrastructure failed; recovery may try again
    │   ├── LaunchFailed            the browser did not start
    │   ├── BrowserCrashed          the browser process is gone
    │   ├── PageCrashed             the renderer or content process is gone
    │   ├── PageHung                the page did not answer within its deadline
    │   ├── DeviceLost              the GPU device or GPU process is gone
    │   ├── OutOfMemory             the page or the device ran out of memory
    │   ├── SessionRefused          onnxruntime-web refuses to create sessions in this page
    │   └── ConnectionLost          the page's WebSocket closed
    ├── RunFailed                   onnxruntime-web raised while it ran the model; not a fault, not retried
    ├── StateDiverged               a state did not come back bit for bit after a fault; not retried there
    ├── DeadlineExceeded            a wait that is not a page's ended
    └── HistoryError                the history cannot be read or written

``Fault`` subclasses name a ``kind`` that goes into the history unchanged.
"""

from __future__ import annotations

from typing import ClassVar


class BrowserPoolError(Exception):
    """Base of all errors of this package.

    ``what`` has the value that broke, ``where`` the place it came from, ``remedy`` what the reader can do.
    """

    usual_remedy: ClassVar[str | None] = None
    """Where nothing better is known."""

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy or self.usual_remedy
        super().__init__(what, where, self.remedy)

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f"\n  where: {self.where}"
        if self.remedy:
            text += f"\n  remedy: {self.remedy}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments do not survive the default pickling
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(
    cls: type[BrowserPoolError], what: str, where: str | None, remedy: str | None
) -> BrowserPoolError:
    return cls(what, where=where, remedy=remedy)


class UsageError(BrowserPoolError):
    """The test or the configuration is wrong."""


class MarkerError(UsageError):
    """The ``model`` marker has an unknown keyword, a wrong value, or keywords that contradict each other."""


class ConfigurationError(UsageError):
    """An option, ini value or ``[tool.browserpool]`` entry is wrong."""


class SourceError(UsageError):
    """The model's source cannot be read."""


class HashMismatch(SourceError):
    """The bytes that came are not the ones that were pinned."""


class InvalidModel(SourceError):
    """The bytes are not a complete ONNX model."""


class InputError(UsageError):
    """A call gave an unknown input, or one of the wrong dtype or shape."""


class ShardingError(UsageError):
    """The model cannot be cut into so many shards, by that strategy, or for those browsers."""


class UnsupportedOperator(UsageError):
    """The model uses an operator that the backend does not implement."""


class CapabilityError(BrowserPoolError):
    """No browser or backend here can do what was asked."""


class NoNode(CapabilityError):
    """No node of the run, or without ``-n`` this machine, has what the test needs."""


class NoBrowser(CapabilityError):
    """None of the wanted browsers exists on this node."""


class BackendRefused(CapabilityError):
    """The backend was asked for, but onnxruntime put no node of the model on it."""


_ELSEWHERE = (
    "another browser in browsers=, or --browserpool-redundancy=2 for one that holds the model already"
)


class Fault(BrowserPoolError):
    """The infrastructure failed, not the test; recovery may try again."""

    kind: ClassVar[str] = "fault"


class LaunchFailed(Fault):
    """The browser did not start."""

    kind = "launch_failed"
    usual_remedy = "run `browserpool doctor`; start the executable by hand to see what it says"


class BrowserCrashed(Fault):
    """The browser process is gone."""

    kind = "browser_crashed"
    usual_remedy = f"{_ELSEWHERE}; where memory ran out, a smaller --browserpool-max-browsers"


class PageCrashed(Fault):
    """The renderer or content process of the page is gone."""

    kind = "page_crashed"
    usual_remedy = f"{_ELSEWHERE}; where memory ran out, min_memory= in the marker"


class PageHung(Fault):
    """The page did not answer within its deadline."""

    kind = "page_hung"
    usual_remedy = "raise timeout= in the model marker if the model is that slow"


class DeviceLost(Fault):
    """The GPU device, or the process that owns it, is gone."""

    kind = "device_lost"
    usual_remedy = f'fallback="cpu" in the marker where wasm will do; {_ELSEWHERE}'


class OutOfMemory(Fault):
    """The page or the GPU device ran out of memory."""

    kind = "out_of_memory"
    usual_remedy = "a smaller model or batch, fewer models per browser, or min_memory= in the marker"


class SessionRefused(Fault):
    """onnxruntime-web no longer creates sessions in this page."""

    kind = "session_refused"
    usual_remedy = f'fallback="cpu" in the marker where wasm will do; {_ELSEWHERE}'


class ConnectionLost(Fault):
    """The WebSocket between node and page closed."""

    kind = "connection_lost"
    usual_remedy = f"{_ELSEWHERE}; where it comes again, look for what cuts connections: a proxy, a policy, a node that ended"


class RunFailed(BrowserPoolError):
    """onnxruntime-web raised while it loaded or ran the model; the infrastructure is sound."""


class StateDiverged(BrowserPoolError):
    """After a fault, steps that were done before gave other bits: the state of a session cannot be brought back there."""


class DeadlineExceeded(BrowserPoolError):
    """A wait reached its deadline."""


class HistoryError(BrowserPoolError):
    """The history cannot be read or written."""


def hide_from_traceback(caught: object) -> bool:
    """For ``__tracebackhide__`` of the modules that a test calls into: an error that explains itself needs no frames."""
    return bool(getattr(caught, "errisinstance", lambda _: False)(BrowserPoolError))
