"""One model page of one browser: its channel, its onnxruntime-web, its sessions."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pytest_browserpool.browsers.channel import PageChannel
from pytest_browserpool.browsers.interpret import interpret
from pytest_browserpool.browsers.kinds import WHOLE, PageKind
from pytest_browserpool.browsers.post import PageError, Post, Reply
from pytest_browserpool.browsers.protocol import MAX_MESSAGE, Array, Packed, StateUse
from pytest_browserpool.browsers.targets import ModelPage
from pytest_browserpool.errors import ConnectionLost, DeviceLost, Fault, PageHung

ANCHOR = Path(__file__).parent / "page" / "anchor.onnx"
"""y = 2x + 1: the probe's question, and the session that stays open so that compiled pipelines live on."""

FRESH_SECONDS = 0.25
"""After an answer a page is not asked whether it lives: asking costs as much as a short test's own call, and short tests
follow each other in milliseconds. What goes bad while nobody uses it does so in the pauses, which are longer."""

MOST_BROUGHT = MAX_MESSAGE // 2
"""Bytes of a model that go along with the command; the rest of the message is small."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class SessionKey:
    """What makes two sessions the same: content, backend, page, options, and for WebNN the input shapes."""

    sha256: str
    backend: str
    page: PageKind = WHOLE
    options: str = "{}"
    """Canonical JSON of onnxruntime-web's session options."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass
class Session:
    """One InferenceSession in a page."""

    key: SessionKey
    name: str
    label: str
    placement: dict[str, int]
    missing: tuple[str, ...]
    """Operators for which the backend has no kernel."""
    load_ms: float
    fetch_ms: float
    bytes: int
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    runs: int = 0
    holders: int = 0
    """Tests and shards that need it to stay: it is not let go of for want of room."""
    last_used: float = field(default_factory=time.monotonic)

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.label} on {self.key.backend}"


class RuntimePage:
    """Commands of onnxruntime-web in one page; creates, runs and releases never overlap (one queue per page).

    ``lost`` is set once the page must not be used again: crashed, hung, cut off, poisoned, or its GPU device gone.
    """

    def __init__(self, channel: PageChannel, kind: PageKind, offer: Callable[[str, Path], str]) -> None:
        self.channel = channel
        self.kind = kind
        self.threads = 0
        """Of its WebAssembly, as the page itself says; 0 before it is configured."""
        self.sessions: dict[SessionKey, Session] = {}
        self.loads = 0
        self.runtime = ""
        """Version and build of its onnxruntime-web, as the page itself says."""
        self.lost: Fault | None = None
        self.on_lost: Callable[[Fault], None] = lambda fault: None
        """Told once, when it is lost."""
        self._page: ModelPage | None = None
        self._offer = offer
        self._queue = asyncio.Lock()
        self._ahead = 0
        self._creating: dict[SessionKey, asyncio.Lock] = {}
        self._anchored = False
        self._answered = 0.0
        """When all of it was last known to answer, in ``time.monotonic()``."""

    def bind(self, page: ModelPage) -> None:
        self._page = page
        self.channel.explain = page.explained

    def lose(self, fault: Fault) -> None:
        """The first reason counts; every pending command raises it."""
        if self.lost is None:
            self.lost = fault
            self.on_lost(fault)
        self.channel.fail(fault)

    async def call(
        self,
        op: str,
        args: Mapping[str, Any],
        tensors: Mapping[str, Array] | None = None,
        *,
        timeout: float,
        where: str,
    ) -> Reply:
        """One command in its turn; an error text becomes the error that it stands for, a fault loses the page."""
        async with self._queue:
            return await self._command(op, args, tensors, timeout=timeout, where=where)

    async def _command(
        self,
        op: str,
        args: Mapping[str, Any],
        tensors: Mapping[str, Array | Packed] | None,
        *,
        timeout: float,
        where: str,
        packed: bool = False,
    ) -> Reply:
        if self.lost is not None:
            raise self.lost
        try:
            return await self.channel.call(op, args, tensors, timeout=timeout, packed=packed)
        except PageError as error:
            meaning = interpret(error.text, where=where)
            if isinstance(meaning, Fault):
                self.lose(meaning)
            raise meaning from None  # its text is in the message
        except Fault as fault:
            if not self.came_back(fault):
                self.lose(fault)
            raise

    def came_back(self, fault: Fault) -> bool:
        """Whether the page is sound all the same: its connection was cut, and it has dialled again."""
        return isinstance(fault, ConnectionLost) and self.channel.connected

    def start(self, threads: int) -> Mapping[str, Any]:
        """What ``configure`` asks for. A page whose address says so has begun with it before it is asked."""
        return {"bundle": self.kind.bundle, "threads": threads, "anchor": self._offer("anchor.onnx", ANCHOR)}

    async def configure(self, threads: int, timeout: float) -> None:
        """Loads the bundle and compiles its WebAssembly: what is left for a session is the session's own."""
        reply = await self.call("configure", self.start(threads), timeout=timeout, where="start")
        self.threads = int(reply.values["threads"])
        self.runtime = f"onnxruntime-web {reply.values['version']} ({self.kind.bundle})"

    async def create(
        self,
        key: SessionKey,
        path: Path,
        external: tuple[tuple[str, Path], ...],
        *,
        label: str,
        timeout: float,
    ) -> tuple[Session, bool]:
        """A session, and whether it was made for this call: one that is there, or being made, is shared."""
        async with self._creating.setdefault(key, asyncio.Lock()):
            if key in self.sessions:
                return self.sessions[key], False
            return await self._create(key, path, external, label, timeout), True

    async def _create(
        self, key: SessionKey, path: Path, external: tuple[tuple[str, Path], ...], label: str, timeout: float
    ) -> Session:
        started = time.perf_counter()
        if key.backend == "webgpu" and not self._anchored:
            await self._anchor(timeout)
        name = f"{key.sha256[:12]}-{key.backend}-{next(_numbers)}"
        url = self._offer(f"{key.sha256}{_shape_suffix(key)}", path)
        args = {
            "session": name,
            "backend": key.backend,
            "url": url,
            "external": [
                [part, self._offer(f"{key.sha256}-{i}", file)] for i, (part, file) in enumerate(external)
            ],
            "options": json.loads(key.options),
        }
        where = f"{label} on {key.backend}"
        brought = await self._brought(path, external)
        reply = await self.call("create", args, brought, timeout=timeout, where=where)
        self.loads += 1
        values = reply.values
        session = Session(
            key=key,
            name=name,
            label=label,
            placement=dict(values["placement"]),
            missing=tuple(values["missing"]),
            load_ms=(time.perf_counter() - started) * 1000,
            fetch_ms=float(values["fetch_ms"]),
            bytes=int(values["bytes"]),
            inputs=tuple(values["inputs"]),
            outputs=tuple(values["outputs"]),
        )
        self.sessions[key] = session
        return session

    async def _brought(self, path: Path, external: tuple[tuple[str, Path], ...]) -> dict[str, Array]:
        """The files of a model that go along with the command, as the page knows them; none where it fetches them."""
        files = {"model": path, **{f"external {part}": file for part, file in external}}
        if self._page is None or not self._page.watched:
            return {}
        read = functools.partial(np.fromfile, dtype=np.uint8)
        try:
            if sum(file.stat().st_size for file in files.values()) > MOST_BROUGHT:
                return {}
            return {name: await asyncio.to_thread(read, file) for name, file in files.items()}
        except OSError:
            return {}  # a file that went away: what the page says of it has a meaning already

    async def _anchor(self, timeout: float) -> None:
        url = self._offer("anchor.onnx", ANCHOR)
        args = {"session": "anchor", "backend": "webgpu", "url": url, "external": [], "options": {}}
        await self.call("create", args, timeout=timeout, where="the anchor session")
        self._anchored = True

    def _ran(self, session: Session, runs: int = 1) -> None:
        session.runs += runs
        session.last_used = time.monotonic()
        if session.key.backend == "webgpu" or not self._anchored:  # wasm runs on while the GPU stands still
            self._answered = session.last_used

    async def run(
        self,
        session: Session,
        inputs: Mapping[str, Array],
        *,
        timeout: float,
        state: StateUse | None = None,
    ) -> Reply:
        """One inference; with ``state`` the tensors that it names stay in the page."""
        reply = await self.call(
            "run", _run_args(session, state), inputs, timeout=timeout, where=session.where
        )
        self._ran(session)
        return reply

    def run_of(self, session: Session, inputs: Mapping[str, Array]) -> Post:
        """One inference, packed in the thread that will wait for it; ``send_run`` sends it."""
        return Post(self.channel.number(), "run", _run_args(session, None), inputs)

    def send_run(self, post: Post) -> None:
        """Sends what ``run_of`` made for another thread, which makes its own sense of what comes of it; the loop says
        ``run_landed`` then."""
        self._ahead += 1
        self.channel.post(post)

    def run_landed(self, session: Session, ok: bool) -> None:
        """What ``send_run`` sent has ended; ``ok``: with an answer."""
        self._ahead -= 1
        if ok:
            self._ran(session)

    async def run_packed(
        self,
        session: Session,
        inputs: Mapping[str, Packed],
        *,
        timeout: float,
        state: StateUse | None = None,
    ) -> Reply:
        """One inference on tensors of other messages. Sent at once, so that they travel while the page still works.

        The page's own queue keeps the order; the caller bounds how many are sent ahead, and ``timeout`` counts the
        wait for them.
        """
        self._ahead += 1
        try:
            args = _run_args(session, state)
            reply = await self._command(
                "run", args, inputs, timeout=timeout, where=session.where, packed=True
            )
        finally:
            self._ahead -= 1
        self._ran(session)
        return reply

    async def benchmark(
        self, session: Session, inputs: Mapping[str, Array], runs: int, *, timeout: float
    ) -> list[float]:
        """``runs`` inferences timed in the page, milliseconds each."""
        args = {"session": session.name, "runs": runs}
        reply = await self.call("benchmark", args, inputs, timeout=timeout, where=session.where)
        self._ran(session, runs)
        return [float(t) for t in reply.values["times"]]

    async def set_state(
        self, name: str, step: int, slots: Mapping[str, Array | Packed], *, timeout: float
    ) -> None:
        """Puts a state into the page, in place of what stood there under that name; see ``protocol.StateUse``."""
        args = {"state": name, "step": step}
        async with self._queue:
            await self._command("state_set", args, slots, timeout=timeout, where=f"state {name}")

    async def get_state(self, name: str, *, timeout: float) -> tuple[int, Mapping[str, Packed]]:
        """The step at which a state stands, and its slots as they came: to be put into another page, or unpacked."""
        where = f"state {name}"
        async with self._queue:
            reply = await self._command(
                "state_get", {"state": name}, None, timeout=timeout, where=where, packed=True
            )
        return int(reply.values["step"]), reply.packed

    async def drop_state(self, name: str, *, timeout: float) -> None:
        """Frees a state; nothing where there is none."""
        await self.call("state_drop", {"state": name}, timeout=timeout, where=f"state {name}")

    async def release(self, session: Session, timeout: float) -> None:
        """Ends a session and frees its memory (the GPU's; wasm memory is reused, not given back)."""
        self.sessions.pop(session.key, None)
        await self.call("release", {"session": session.name}, timeout=timeout, where=session.label)

    async def ping(self, timeout: float) -> bool:
        """Whether JavaScript answers and, once a GPU device is in use, the GPU too. Skipped while the page is busy, or has
        just answered."""
        if self.busy or self._ahead or (self.lost is None and self.fresh):
            return True
        try:
            await self.channel.call("ping", timeout=timeout)
            if self._anchored:
                await self.call("gpu_ping", {}, timeout=timeout, where="heartbeat")
        except Fault as fault:
            self.lose(fault)
            return False
        self._answered = time.monotonic()
        return self.lost is None

    @property
    def fresh(self) -> bool:
        """Whether it has answered a moment ago."""
        return time.monotonic() - self._answered < FRESH_SECONDS

    @property
    def busy(self) -> bool:
        """Whether a command is under way or waits."""
        return self._queue.locked()

    @property
    def uses_gpu(self) -> bool:
        """Whether it has had a WebGPU session."""
        return self._anchored

    async def finds_adapter(self) -> bool:
        """Whether the GPU's side of the browser answers; a stopped GPU process never does."""
        assert self._page is not None
        return bool(await self._page.evaluate("navigator.gpu.requestAdapter().then((a) => a !== null)"))

    def on_event(self, event: Mapping[str, Any]) -> None:
        """What the page says unasked."""
        if event.get("kind") == "device_lost":
            self.lose(DeviceLost(f"the GPU device was lost ({event.get('reason')}): {event.get('message')}"))

    @property
    def hung(self) -> bool:
        return isinstance(self.lost, PageHung)

    async def screenshot(self) -> bytes | None:
        """A PNG of the page, or None where it cannot be had any more."""
        if self._page is None or self.lost is not None:
            return None
        try:
            return await self._page.screenshot()
        except Exception:  # noqa: BLE001 - a diagnosis must never hide the failure that it is for
            return None

    async def close(self) -> None:
        self.channel.end()
        if self._page is not None:
            await self._page.close()


def _run_args(session: Session, state: StateUse | None) -> dict[str, Any]:
    return (
        {"session": session.name} if state is None else {"session": session.name, "state": state.to_plain()}
    )


def _shape_suffix(key: SessionKey) -> str:
    return (
        ""
        if not key.shapes
        else "-" + "-".join("x".join(map(str, dims)) or "scalar" for _, dims in key.shapes)
    )
