"""One command to a page for which another thread waits: packed and unpacked there, sent without a task of the loop's."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any, NamedTuple

from pytest_browserpool.browsers.protocol import Array, Packed, encode, tensors_of


class PageError(Exception):
    """The page answered that the command failed; its text is onnxruntime-web's. Interpreted by the caller."""

    def __init__(self, text: str, stack: str = "") -> None:
        super().__init__(text)
        self.text, self.stack = text, stack


_NONE: Mapping[str, Any] = types.MappingProxyType({})


class Reply(NamedTuple):
    """What a command brought back.

    A tuple, like all that is made for each warm call: a frozen dataclass takes several times as long.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, Array] = _NONE
    packed: Mapping[str, Packed] = _NONE
    """The tensors as they came, where the caller asked for them so; ``tensors`` is empty then."""


class Post:
    """Made and waited for by one thread, sent and answered in the loop: ``PageChannel.post``.

    A lock that is let go of wakes the waiting thread, a fifth of what a future of ``concurrent.futures`` costs; and the
    loop does nothing for the deadline, which is the waiting thread's.
    """

    __slots__ = ("_error", "_header", "_landed", "_landing", "_message", "_start", "message", "number", "op")

    def __init__(self, number: int, op: str, args: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        """``number``: from ``PageChannel.number``.

        Raises:
            InputError: a dtype that onnxruntime-web has no tensor type for, or too many bytes.
        """
        self.number, self.op = number, op
        self.message = encode({"id": number, "op": op, "args": args}, tensors)
        self._landed: Callable[[bool], None] | None = None
        self._landing = threading.Lock()
        self._landing.acquire()
        self._error: Exception | None = None
        self._header: Mapping[str, Any] = {}
        self._message: bytes | bytearray = b""
        self._start = 0

    def done(self) -> bool:
        """Whether it has its answer, or never will."""
        return not self._landing.locked()

    def when_landed(self, landed: Callable[[bool], None]) -> None:
        """To be called in the loop with whether the page has done it, while the waiting thread wakes.

        What that thread has the loop do next comes after it.

        Said in the turn of the loop that sends it, so only a message that could not go has landed by then.
        """
        if self.done():
            landed(False)
        else:
            self._landed = landed

    def give(self, header: Mapping[str, Any], message: bytes | bytearray, start: int) -> None:
        """The page's answer, with the tensors still in it from ``start`` on."""
        self._header, self._message, self._start = header, message, start
        self._land(bool(header["ok"]))

    def set_exception(self, error: Exception) -> None:
        """There will be no answer."""
        self._error = error
        self._land(False)

    def _land(self, ok: bool) -> None:
        self._landing.release()  # first: until the thread is awake, what follows costs the call nothing
        if self._landed is not None:
            self._landed(ok)

    def result(self, timeout: float) -> Reply:
        """Waits for the answer, at most ``timeout`` seconds.

        Raises:
            TimeoutError: it did not come. The page must be closed then: it may still be at it.
            PageError: the page answered with an error. Fault: the page is or went broken.
        """
        if not self._landing.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise TimeoutError
        self._landing.release()  # it stays done
        if self._error is not None:
            raise self._error
        header = self._header
        if not header["ok"]:
            raise PageError(header["error"], header.get("stack", ""))
        tensors = tensors_of(header, memoryview(self._message), self._start)
        return Reply(header["values"], {name: tensor.array() for name, tensor in tensors.items()})


def begun(work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any] | None:
    """Runs ``work`` until it first waits, without a task of its own; what is left of it then, to be awaited by one.

    Sending a small message waits for nothing, unless the page does not take what was sent before.
    """
    try:
        first = work.send(None)
    except StopIteration:
        return None
    _awaited(first, now=False)
    return _left(first, work)


def _awaited(future: Any, *, now: bool) -> None:
    """A future is marked while it goes from what waits for it to its task, and takes no second one meanwhile: what waits
    for no task yet must not leave the mark, since the next message may wait for the same room."""
    if isinstance(future, asyncio.Future):
        future._asyncio_future_blocking = now


async def _left(first: Any, work: Coroutine[Any, Any, Any]) -> None:
    await _continued(first, work)


@types.coroutine
def _continued(waits_for: Any, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, None]:
    _awaited(waits_for, now=True)
    while True:
        failed: BaseException | None = None
        try:
            yield waits_for
        except BaseException as error:  # noqa: BLE001 - the task's cancellation among them; it is the work's business
            failed = error
        try:
            waits_for = work.send(None) if failed is None else work.throw(failed)
        except StopIteration:
            return
