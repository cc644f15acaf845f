"""One model of one test: which browser and backend it really got, its sessions, its calls."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from pytest_browserpool.browsers.choice import Candidate
from pytest_browserpool.browsers.kinds import PageKind, page_for
from pytest_browserpool.browsers.page import Session, SessionKey
from pytest_browserpool.browsers.pool import Loaded, ModelContent, Pool, stamps_of
from pytest_browserpool.errors import (
    BackendRefused,
    BrowserPoolError,
    Fault,
    PageHung,
    UnsupportedOperator,
)
from pytest_browserpool.models.inspect import ModelInfo, resolve_shapes
from pytest_browserpool.models.sources import still_holds
from pytest_browserpool.node import refusing
from pytest_browserpool.node.standby import Standby
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.recovery.breaker import Trials
from pytest_browserpool.values import ModelNeeds

if TYPE_CHECKING:
    from pytest_browserpool.node.recovering import Recovery
    from pytest_browserpool.node.stateful import PageState

T = TypeVar("T")
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Static = Callable[[ModelContent, Mapping[str, Sequence[int]]], Path]
"""``static(model, shapes)``: the file of the same graph with its shapes fixed."""

Refusals = dict[tuple[str, str, str, Shapes], BrowserPoolError]
"""(sha256, browser, backend, shapes) → why this model does not run there; known for the life of the node."""


class Reply(NamedTuple):
    """One call's outcome."""

    outputs: Mapping[str, NDArray[Any]]
    latency_ms: float
    page_ms: float
    warm: bool


class Resident:
    """A model that a test holds. Its candidates are tried in order; what refuses the model is never tried again."""

    def __init__(
        self,
        pool: Pool,
        needs: ModelNeeds,
        content: ModelContent,
        info: ModelInfo,
        candidates: Sequence[Candidate],
        use: ModelUse,
        refusals: Refusals,
        static: Static,
        on_refused: Callable[[Candidate, BrowserPoolError], None],
        on_loaded: Callable[[Resident, float, float], None],
        recovery: Recovery,
    ) -> None:
        self._on_loaded = on_loaded
        self.recovery = recovery
        self.needs, self.content, self.info, self.use = needs, content, info, use
        self.loaded: Loaded | None = None
        self.pinned: Any = None
        self._held: Session | None = None
        self.slot = 0
        """Which of several browsers of one name it runs in."""
        self.ahead = False
        """Loaded before its test begins, beside another: on the record under no test."""
        self.standby: Standby | None = None
        self._trials = Trials(recovery.breakers)
        self.states: list[PageState] = []
        """Of the sessions with state that the test has open."""
        self._pool = pool
        self._candidates = recovery.steered(candidates, needs)
        self._refusals = refusals
        self._static = static
        self._on_refused = on_refused
        options = dict(needs.session_options or {})
        bundle = options.pop("bundle", None)
        self._page = PageKind(refusing.bundle_of(bundle)) if bundle is not None else None
        """Where the marker names one; else the one that the backend needs."""
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._options = json.dumps(options, sort_keys=True)

    @property
    def waits_for_shapes(self) -> bool:
        """Whether the first candidate can only be tried once the first call tells the shapes (WebNN needs them fixed)."""
        return bool(self._candidates) and self._needs_shapes(self._candidates[0]) and not self._given_shapes()

    def _needs_shapes(self, candidate: Candidate) -> bool:
        return candidate.backend.startswith("webnn") and not self.info.static

    def _given_shapes(self) -> Mapping[str, tuple[int, ...]] | None:
        given = self.needs.input_shapes
        if not given or any(t.name not in given and not t.static for t in self.info.inputs):
            return None
        return given

    async def place(self) -> Loaded:
        """A session before the first call, recovered where infrastructure fails."""
        return await self._recovering(self._placed)

    async def _placed(self) -> Loaded:
        """The session that recovery has made, or one by the usual way: a load counts once, however often tried."""
        if self.loaded is not None and self.loaded.page.lost is None:
            return self.loaded
        return await self.ensure(None)

    @property
    def everywhere(self) -> list[Loaded]:
        """One session of each browser that the model is in."""
        return [self.loaded] if self.loaded is not None else []

    @property
    def pool(self) -> Pool:
        """Where its sessions live."""
        return self._pool

    @property
    def current(self) -> Candidate | None:
        """Where it runs, or ran until a fault."""
        return Candidate(self.use.browser, self.use.backend) if self.use.browser else None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What is left to try, best first."""
        return tuple(self._candidates)

    async def move(self, candidate: Candidate, slot: int = 0) -> None:
        """A session on that candidate, whatever the order; for recovery.

        Raises:
            BackendRefused: the model does not run there.
        """
        self.loaded = None
        if self.pinned is not None and self.pinned.health.complaint is not None:
            self._unpin()  # held by nothing else, it is replaced before the next session is made
        await self._try(candidate, self._fixed(candidate, self._shapes), slot)

    async def load(self, candidate: Candidate, slot: int) -> Loaded:
        """A session on that candidate beside the one in use; for a standby. Raises what ``move`` does."""
        return await self._load(candidate, self._fixed(candidate, self._shapes), slot)

    def fail_over(self) -> bool:
        """To the standby, without a load; whether there was one."""
        taken = self.standby.take() if self.standby is not None else None
        if taken is None:
            return False
        seat, loaded = taken
        self._took(dataclasses.replace(loaded, launch_ms=0.0, load_ms=0.0, warm=True), seat.candidate)
        return True

    async def ensure(self, shapes: Mapping[str, tuple[int, ...]] | None) -> Loaded:
        """A session that can take inputs of ``shapes`` (None: of ``input_shapes=`` or any).

        Raises:
            BackendRefused: no candidate runs the model; with each one's reason.
            Fault: infrastructure, for recovery to deal with.
        """
        tried: list[tuple[Candidate, BrowserPoolError]] = []
        self._shapes = shapes or self._shapes
        while self._candidates:
            self._trials.leave(time.monotonic())
            self._candidates = self.recovery.steered(self._candidates, self.needs)
            candidate = self._candidates[0]
            self._trials.enter(time.monotonic(), candidate.browser)
            fixed = self._fixed(candidate, shapes)
            try:
                if (known := self._refusal(candidate, fixed)) is not None:
                    raise known
                return await self._try(candidate, fixed)
            except (UnsupportedOperator, BackendRefused) as error:
                self.refuse(candidate, fixed, error)
                tried.append((candidate, error))
        raise refusing.none_left(self.content.label, tried)

    def _refusal(self, candidate: Candidate, fixed: Shapes) -> BrowserPoolError | None:
        return self._refusals.get((self.content.sha256, candidate.browser, candidate.backend, fixed))

    def refuse(self, candidate: Candidate, fixed: Shapes, error: BrowserPoolError) -> None:
        """``candidate`` does not run this model: measured, remembered, told."""
        key = (self.content.sha256, candidate.browser, candidate.backend, fixed)
        if key not in self._refusals:
            self._refusals[key] = error
            self._on_refused(candidate, error)
        if candidate in self._candidates:
            self._candidates.remove(candidate)

    def _fixed(self, candidate: Candidate, shapes: Mapping[str, tuple[int, ...]] | None) -> Shapes:
        if not self._needs_shapes(candidate):
            return ()
        known = resolve_shapes(self.info, shapes or self._given_shapes() or {})
        return tuple(sorted((name, tuple(dims)) for name, dims in known.items()))

    async def _try(self, candidate: Candidate, fixed: Shapes, slot: int = 0) -> Loaded:
        started, clock = time.time(), time.perf_counter()
        loaded = await self._load(candidate, fixed, slot)
        self._took(loaded, candidate)
        self._on_loaded(self, started, (time.perf_counter() - clock) * 1000)
        return loaded

    def take_warm(self) -> bool:
        """The session that a test before left, if it is there and answered a moment ago; nothing has changed otherwise.

        What most tests begin with: from the test's thread, without a turn of the loop, which would cost half a
        millisecond. What goes wrong with it later is found by the first call, as ever.
        """
        if self.standby is not None or not self._candidates:
            return False
        started, clock = time.time(), time.perf_counter()
        candidate = self._candidates[0]
        fixed = self._fixed(candidate, None)
        if self._refusal(candidate, fixed) or not self.recovery.breakers.pristine(candidate.browser):
            return False
        loaded = self._pool.at_hand(candidate.browser, self._key(candidate, fixed))
        if loaded is None or not refusing.placed_on(candidate, loaded.session):
            return False
        self._took(loaded, candidate)
        self._on_loaded(self, started, (time.perf_counter() - clock) * 1000)
        return True

    def _key(self, candidate: Candidate, fixed: Shapes) -> SessionKey:
        page = self._page or page_for(candidate.backend)
        return SessionKey(self.content.sha256, candidate.backend, page, self._options, fixed)

    async def _load(self, candidate: Candidate, fixed: Shapes, slot: int) -> Loaded:
        key = self._key(candidate, fixed)
        content = self.content
        files = (content.path, content.external)
        touched = content.stamps and content.stamps != stamps_of(*files)
        # by a link to it or by other permissions, say: what it holds decides
        if touched and not await asyncio.to_thread(still_holds, content.sha256, *files):
            raise refusing.changed(content.label, content.path)
        if fixed:
            path = self._static(content, dict(fixed))
            content = ModelContent(content.sha256, path, content.label, content.size, content.external)
        loaded = await self._pool.load(candidate.browser, key, content, self.needs.timeout, slot)
        if not refusing.placed_on(candidate, loaded.session):
            await self._pool.release(loaded)
            raise refusing.not_placed(candidate, content.label, loaded.session)
        return loaded

    def _took(self, loaded: Loaded, candidate: Candidate) -> None:
        use = self.use
        self.pin(loaded)
        use.browser, use.backend = candidate.browser, candidate.backend
        use.browser_version = loaded.instance.process.version
        use.placement = dict(loaded.session.placement)
        use.launch_ms += loaded.launch_ms
        use.load_ms += loaded.load_ms
        use.warm = use.warm and loaded.warm
        self.loaded, self.slot = loaded, loaded.instance.slot

    def pin(self, loaded: Loaded | None) -> None:
        """Keeps browser and session from being evicted while the test holds the model; None lets them and its standby go."""
        self._unpin()
        self.pinned = loaded.instance if loaded is not None else None
        if loaded is not None:
            loaded.instance.leases += 1
            loaded.session.holders += 1
            self._held = loaded.session
            return
        self._trials.leave(time.monotonic())
        if self.standby is not None:
            self.standby.let_go()

    def _unpin(self) -> None:
        if self.pinned is not None:
            self.pinned.leases -= 1
        if self._held is not None:
            self._held.holders -= 1
        self.pinned = self._held = None

    async def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        state: PageState | None = None,
        first: Fault | None = None,
    ) -> Reply:
        """One call, recovered where infrastructure fails: what a failed attempt leaves behind is never built upon.

        ``first``: how the first attempt ended, where it was made elsewhere.
        """
        return await self._recovering(lambda: self._attempt(inputs, state), state, first)

    async def with_state(self, state: PageState, command: Callable[[Loaded], Awaitable[T]]) -> T:
        """``command`` where the state stands at its current step, brought back first where it was lost."""

        async def attempt() -> T:
            loaded = await self._session_for(dict(self._shapes or {}))
            await state.bring(loaded)
            return await command(loaded)

        return await self._recovering(attempt, state)

    async def _recovering(
        self,
        attempt: Callable[[], Awaitable[T]],
        state: PageState | None = None,
        first: Fault | None = None,
    ) -> T:
        began = time.monotonic()
        try:
            if first is not None:
                raise first
            result = await attempt()
            if isinstance(result, Reply):  # a load, which may have found a warm session, proves little
                self.recovery.answered(self.use.browser, began)
        except Fault as fault:
            if isinstance(fault, PageHung) and self.needs.recovery is None:
                # The marker's timeout is the test's own limit: a model that does not end would not end elsewhere, and
                # trying would multiply the time. A test that wants it tried says recovery=.
                self.recovery.not_tried(self, fault)
                raise
            result = await self.recovery.recover(self, fault, began, attempt, state)
        if self.standby is not None:
            self.standby.provide()
        return result

    async def _attempt(self, inputs: Mapping[str, NDArray[Any]], state: PageState | None = None) -> Reply:
        """One attempt of a call, with a session made first where the inputs' shapes need one.

        With ``state`` the rest of the inputs is in the page, brought there first where it is not.

        A backend that turns out on its first run to lack an operator is refused like one that says so at once.
        """
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        if state is not None:
            shapes |= state.shapes
        self._shapes = shapes
        while True:
            loaded = await self._session_for(shapes)
            if state is not None:
                await state.bring(loaded)
            first = loaded.session.runs == 0
            started = time.perf_counter()
            try:
                use = state.use() if state is not None else None
                reply = await self._pool.run(loaded, inputs, self.needs.timeout, use)
            except UnsupportedOperator as error:
                if not first:
                    raise
                candidate = Candidate(self.use.browser, self.use.backend)
                self.refuse(candidate, loaded.session.key.shapes, error)
                self.loaded = None
                if not self._candidates:
                    raise
                continue
            latency = (time.perf_counter() - started) * 1000
            if first:
                self.use.first_run_ms += latency
            self.use.timings.append(latency)
            return Reply(reply.tensors, latency, float(reply.values["run_ms"]), warm=not first)

    async def _session_for(self, shapes: Mapping[str, tuple[int, ...]]) -> Loaded:
        loaded = self.loaded
        if loaded is not None and loaded.page.lost is not None:
            self.loaded = None
            raise loaded.page.lost  # lost since the last call: on the record like any other fault
        if loaded is not None and loaded.session.key in loaded.page.sessions:
            wanted = loaded.session.key.shapes
            if not wanted or all(shapes.get(name) == dims for name, dims in wanted):
                return loaded
        return await self.ensure(shapes)

    async def benchmark(self, inputs: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
        """Milliseconds of ``runs`` inferences, timed in the page after one that warms up."""
        await self.run(inputs)
        assert self.loaded is not None
        timeout = self.needs.timeout * max(1, runs)
        return await self._pool.benchmark(self.loaded, inputs, runs, timeout)

    async def reload(self) -> None:
        """Lets the session go and makes it anew."""
        if self.loaded is not None and self.loaded.page.lost is None:
            shapes = dict(self.loaded.session.key.shapes)
            await self._pool.release(self.loaded)
            self.loaded = None
            await self.ensure(shapes or None)
