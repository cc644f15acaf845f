"""Commands to one page over its WebSocket: one reply for each, each with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from pytest_browserpool.browsers.failures import classify
from pytest_browserpool.browsers.pieces import Assembly, messages
from pytest_browserpool.browsers.post import PageError, Post, Reply, begun
from pytest_browserpool.browsers.protocol import Array, Packed, encode_parts, header_of, tensors_of
from pytest_browserpool.browsers.symptoms import Observation, Origin
from pytest_browserpool.errors import ConnectionLost, Fault, PageHung

KEPT_LINES = 500
"""Console lines kept per page: enough for a failing test, bounded for a page that logs for hours."""

EXPLANATION_SECONDS = 3.0
"""Seconds that a closed socket waits for a better reason, or for its page to dial again. Chromium reports a crash 0.02 –
0.11 s after the fact, Firefox on a loaded machine later; a cut Firefox page took more than 1 s to dial on a machine with six
times the work of its cores. Only a socket that was cut while its page lives waits for all of it."""

GOING_AWAY_SECONDS = 5.0
"""The same where the page's side said that it goes away. A Chromium whose GPU process is killed too often says so, and ends
more than a second later on a busy machine; a browser that is told to end is given as long (``launch.CLOSE_SECONDS``)."""


LOOK_SECONDS = 0.02
"""Between looks for that reason: a few processes are asked whether they live, 50 µs each."""


class PageChannel:
    """The node's end. ``attach`` runs for the life of the socket; ``call`` may be used once ``ready`` is done.

    After ``fail`` (a crash was seen elsewhere, or the socket closed) every pending and later call raises that fault.
    """

    def __init__(self, page_id: str, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        self.page_id = page_id
        self.console: deque[str] = deque(maxlen=KEPT_LINES)
        self.errors: deque[str] = deque(maxlen=KEPT_LINES)
        self.broken: Fault | None = None
        self.calls = 0
        self._on_event = on_event
        self.explain: Callable[[Fault], Fault] = lambda fault: fault
        """What the page's browser knows better than the socket: see ``launch.ModelPage``."""
        self._socket: web.WebSocketResponse | None = None
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Reply] | Post] = {}
        self._posts: set[asyncio.Task[None]] = set()
        self._packed: set[int] = set()
        self._sending = asyncio.Lock()
        self._failed = asyncio.Event()
        self._ended = False
        self._ready: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()

    async def ready(self, timeout: float) -> Mapping[str, Any]:
        """Waits for the page's hello.

        Raises:
            PageHung: it did not come within ``timeout`` seconds.
            Fault: the page or its browser failed before.
        """
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise PageHung(
                f"page {self.page_id} did not connect within {timeout:g} s",
                remedy="see the browser's console; a proxy or a policy that blocks 127.0.0.1 would do this",
            ) from None

    async def attach(self, socket: web.WebSocketResponse) -> None:
        """Reads until the socket closes. A page whose connection was cut dials again, and goes on with a new one."""
        if self._socket is not None:
            self._redialled()
        self._socket = socket
        assembly = Assembly()
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                if (whole := assembly.take(message.data)) is not None:
                    self._receive(whole)
            elif message.type is WSMsgType.ERROR:
                break
        await self._closed(socket)

    def end(self) -> None:
        """We close the page: nobody waits for the reason why its connection closed."""
        self._ended = True

    async def _closed(self, socket: web.WebSocketResponse) -> None:
        """Waits for a better reason, or for the page to dial again; where neither comes, the close code is all there is."""
        fault = self._by_code(
            socket, f"the WebSocket of page {self.page_id} closed (code {socket.close_code})"
        )
        patience = EXPLANATION_SECONDS if isinstance(fault, ConnectionLost) else GOING_AWAY_SECONDS
        until = time.monotonic() + patience
        while self._socket is socket and self.broken is None and time.monotonic() < until and not self._ended:
            better = self.explain(fault)
            if better is not fault:
                self.fail(better)
            await asyncio.sleep(LOOK_SECONDS)
        if self._socket is socket:
            self.fail(fault)

    @property
    def connected(self) -> bool:
        """Whether commands reach the page, over its first connection or a later one."""
        return self.broken is None and self._socket is not None and not self._socket.closed

    def _redialled(self) -> None:
        """What was under way went with the old connection: whether the page has done it, nobody knows."""
        self._end_pending(
            ConnectionLost(f"the WebSocket of page {self.page_id} was cut; the page has dialled again")
        )
        self._failed.set()
        self._failed = asyncio.Event()

    def _end_pending(self, fault: Fault) -> None:
        for future in list(self._pending.values()):
            if not future.done():
                future.set_exception(fault)
        self._pending.clear()

    def _receive(self, data: bytes | bytearray) -> None:
        header, start = header_of(data)
        event = header.get("event")
        if event is not None:
            self._event(event)
            return
        future = self._pending.pop(header["id"], None)
        if future is None or future.done():
            return  # its caller gave up; the page is being closed
        if isinstance(future, Post):
            future.give(header, data, start)
        elif header["ok"]:
            tensors = tensors_of(header, memoryview(data), start)
            if header["id"] in self._packed:
                future.set_result(Reply(header["values"], packed=tensors))
            else:
                arrays = {name: tensor.array() for name, tensor in tensors.items()}
                future.set_result(Reply(header["values"], arrays))
        else:
            future.set_exception(PageError(header["error"], header.get("stack", "")))

    def _event(self, event: Mapping[str, Any]) -> None:
        kind = event.get("kind")
        if kind == "hello":
            if not self._ready.done():
                self._ready.set_result(event)
        elif kind == "console":
            self.console.append(f"{event['level']}: {event['text']}")
        elif kind == "page_error":
            self.errors.append(str(event["text"]))
        self._on_event(event)

    def fail(self, fault: Fault) -> None:
        """The page is lost: the first reason counts."""
        if self.broken is not None:
            return
        self.broken = fault
        self._failed.set()
        if not self._ready.done():
            self._ready.set_exception(fault)
            self._ready.exception()  # somebody may never wait for it
        self._end_pending(fault)

    async def _explained(self, text: str) -> Fault:
        """Why the peer is gone: what is seen elsewhere in the next moment says it better than the socket can."""
        patience = EXPLANATION_SECONDS
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._failed.wait()
            if (
                self.broken is not None
                or self._socket is None
                or self._socket.close_code != WSCloseCode.GOING_AWAY
            ):
                break
            patience = GOING_AWAY_SECONDS  # ``_closed`` ends its wait before
        return self.broken or self._by_code(self._socket, text)

    @staticmethod
    def _by_code(socket: web.WebSocketResponse | None, text: str) -> Fault:
        """What a closed connection means when nothing else is known."""
        code = socket.close_code if socket is not None else None
        kind = classify(Observation(origin=Origin.WEBSOCKET, code=code)) or ConnectionLost
        return kind(text)

    def silent(self, op: str, timeout: float) -> PageHung:
        """The fault of a page that did not answer in time."""
        return PageHung(
            f"page {self.page_id} did not answer {op!r} within {timeout:g} s",
            remedy="raise timeout= in the model marker if the model is that slow",
        )

    def number(self) -> int:
        """For a ``Post``; from any thread."""
        return next(self._ids)

    def post(self, post: Post) -> None:
        """Sends a command for the thread that waits for it, with a deadline of its own; raises nothing."""
        if self.broken is not None:
            post.set_exception(self.broken)
            return
        assert self._socket is not None, "post before ready"
        self._pending[post.number] = post
        self.calls += 1
        try:
            if self._sending.locked():  # the pieces of one message follow each other
                left: Coroutine[Any, Any, None] | None = self._in_turn(post)
            else:
                left = begun(self._socket.send_bytes(post.message))
        except Exception as error:  # noqa: BLE001 - the caller's, who waits for the answer only
            left = _raising(error)
        if left is not None:
            task = asyncio.get_running_loop().create_task(self._sent(post, left))
            self._posts.add(task)
            task.add_done_callback(self._posts.discard)

    async def _in_turn(self, post: Post) -> None:
        async with self._sending:
            assert self._socket is not None
            await self._socket.send_bytes(post.message)

    async def _sent(self, post: Post, sending: Awaitable[None]) -> None:
        try:
            await sending
        except (ConnectionError, RuntimeError) as error:
            text = f"sending {post.op!r} to page {self.page_id}: {error}"
            self._give_up(post, await self._explained(text))
        except Exception as error:  # noqa: BLE001 - the caller's, who waits for the answer only
            self._give_up(post, error)

    def _give_up(self, post: Post, error: Exception) -> None:
        self._pending.pop(post.number, None)
        if not post.done():
            post.set_exception(error)

    async def call(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Array | Packed] | None = None,
        *,
        timeout: float,
        packed: bool = False,
    ) -> Reply:
        """One command. ``packed`` asks for the reply's tensors as they lie in the message.

        Raises:
            PageError: the page answered with an error.
            PageHung: no answer within ``timeout`` seconds. The page must be closed then: it may still be at it.
            Fault: the page is or went broken.
        """
        if self.broken is not None:
            raise self.broken
        assert self._socket is not None, "call before ready"
        number = next(self._ids)
        parts = encode_parts({"id": number, "op": op, "args": args or {}}, tensors or {})
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        if packed:
            self._packed.add(number)
        self.calls += 1
        try:
            async with asyncio.timeout(timeout):
                async with self._sending:  # the pieces of one message follow each other, on one connection
                    socket = self._socket
                    for message in messages(parts):
                        await socket.send_bytes(message)  # type: ignore[arg-type]  # it takes views too
                return await future
        except TimeoutError:
            raise self.silent(op, timeout) from None
        except (
            ConnectionError,
            RuntimeError,
        ) as error:  # aiohttp raises both when the peer is gone while sending
            raise await self._explained(f"sending {op!r} to page {self.page_id}: {error}") from error
        finally:
            self._pending.pop(number, None)
            self._packed.discard(number)
            if future.done() and not future.cancelled():
                future.exception()  # where sending failed nobody has waited for it, and asyncio would say so at the end


async def _raising(error: Exception) -> None:
    raise error
