"""Playwright's asynchronous objects as synchronous ones, for tests: each call runs in the node's loop, with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pytest_browserpool.errors import UsageError

__tracebackhide__ = True  # a failing call is shown where the test made it

Call = Callable[[str, Callable[[], Awaitable[Any]]], Any]
"""Runs an async function in the node's loop and gives its result; raises ``PageHung``, which says what was called."""

SHOWN = 60
"""Characters of an argument in an error: enough for a selector, and to tell one script from another."""


class Bridge:
    """What the facades of one lease share: the way into the loop, and a thread for the test's handlers."""

    def __init__(self, call: Call, loop_thread: int) -> None:
        self._call = call
        self._loop_thread = loop_thread
        # one thread, so that handlers see events in order; they may call back into the page from there
        self.handlers = ThreadPoolExecutor(1, thread_name_prefix="browserpool-handlers")
        self.wrapped: dict[Any, Any] = {}

    def call(self, what: str, function: Callable[[], Awaitable[Any]]) -> Any:
        """The result of ``function``, which does ``what``; Playwright's errors without the way through its inside."""
        try:
            return self._call(what, function)
        except Exception as error:
            if type(error).__module__.startswith("playwright."):
                raise error.with_traceback(None) from error.__cause__
            raise

    def run(self, what: str, function: Callable[[], Any]) -> Any:
        if threading.get_ident() == self._loop_thread:
            raise UsageError(
                "a page was used from the browser pool's own thread", remedy="use it from the test"
            )

        async def inside() -> Any:
            result = function()
            return await result if inspect.isawaitable(result) else result

        return wrap(self, self.call(what, inside))

    def handler(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` as Playwright may call it: it runs in the handlers' thread and gets facades."""
        if function in self.wrapped:
            return self.wrapped[function]  # type: ignore[no-any-return]

        async def handle(*args: Any) -> Any:
            loop = asyncio.get_running_loop()
            return unwrap(
                await loop.run_in_executor(self.handlers, lambda: function(*(wrap(self, a) for a in args)))
            )

        self.wrapped[function] = handle
        return handle

    def close(self) -> None:
        self.handlers.shutdown(wait=False, cancel_futures=True)


class Facade:
    """A Playwright object (Page, Locator, Frame, Keyboard …) whose methods block until they are done."""

    def __init__(self, bridge: Bridge, target: Any) -> None:
        object.__setattr__(self, "_bridge", bridge)
        object.__setattr__(self, "_target", target)

    def __getattr__(self, name: str) -> Any:
        bridge, target = self._bridge, self._target
        value = getattr(target, name)
        if not callable(value) or isinstance(value, type):
            return wrap(bridge, value)

        def method(*args: Any, **kwargs: Any) -> Any:
            args = tuple(_argument(bridge, a) for a in args)
            kwargs = {k: _argument(bridge, v) for k, v in kwargs.items()}
            what = _said(target, name, args)
            if name.startswith("expect_"):
                manager = bridge.run(what, lambda: _Opaque(value(*args, **kwargs))).inner
                return Expectation(bridge, what, manager)
            return bridge.run(what, lambda: value(*args, **kwargs))

        method.__name__ = name
        method.__doc__ = getattr(value, "__doc__", None)
        return method

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Facade) and self._target is other._target

    def __hash__(self) -> int:
        return hash(self._target)

    def __repr__(self) -> str:
        return f"<pooled {self._target!r}>"

    def __dir__(self) -> list[str]:
        return dir(self._target)


class _Opaque:
    """Carries an object out of the loop unwrapped."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Expectation:
    """``with page.expect_…() as info:`` and then ``info.value``."""

    def __init__(self, bridge: Bridge, what: str, manager: Any) -> None:
        self._bridge, self._what, self._manager = bridge, what, manager
        self._info: Any = None

    def __enter__(self) -> Expectation:
        self._info = self._bridge.call(self._what, lambda: self._manager.__aenter__())
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        async def leave() -> None:
            # asyncio complains of an error that nobody took, and here what ended the body says why
            if error is not None and self._info.is_done():
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await self._info.value
            await self._manager.__aexit__(kind, error, traceback)

        self._bridge.call(self._what, leave)

    @property
    def value(self) -> Any:
        async def inside() -> Any:
            value = self._info.value
            return await value if inspect.isawaitable(value) else value

        return wrap(self._bridge, self._bridge.call(self._what, inside))


def wrap(bridge: Bridge, value: Any) -> Any:
    """Playwright objects become facades, also inside lists and dicts; everything else stays."""
    if isinstance(value, list):
        return [wrap(bridge, v) for v in value]
    if isinstance(value, dict):
        return {k: wrap(bridge, v) for k, v in value.items()}
    if type(value).__module__.startswith("playwright.async_api"):
        if isinstance(value, Exception):
            return value
        return Facade(bridge, value)
    return value


def unwrap(value: Any) -> Any:
    if isinstance(value, Facade):
        return value._target
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(v) for v in value)
    if isinstance(value, dict):
        return {k: unwrap(v) for k, v in value.items()}
    return value


def _said(target: Any, name: str, args: tuple[Any, ...]) -> str:
    """The call as Playwright names it, with the selector, script or address that it was given."""
    given = repr(args[0]) if args and isinstance(args[0], str) else "…" if args else ""
    if len(given) > SHOWN:
        given = given[: SHOWN - 1] + "…"
    return f"{type(target).__name__}.{name}({given})"


def _argument(bridge: Bridge, value: Any) -> Any:
    if inspect.isfunction(value) or inspect.ismethod(value):
        return bridge.handler(value)
    return unwrap(value)
