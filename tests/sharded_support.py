"""A pool whose pages run their sessions natively and die on command: for sharded models by the thousand, without browsers."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import onnx

from pytest_browserpool.browsers.page import Session, SessionKey
from pytest_browserpool.browsers.pool import Loaded, ModelContent
from pytest_browserpool.browsers.protocol import Packed, StateUse, pack
from pytest_browserpool.errors import BrowserCrashed, Fault
from pytest_browserpool.models.inspect import inspect
from pytest_browserpool.node.cutting import Cut, Seat, cut
from pytest_browserpool.node.sharded import ShardedResident
from pytest_browserpool.node.use import ModelUse
from pytest_browserpool.recovery.breaker import Breakers
from pytest_browserpool.sharding.native import open_session
from pytest_browserpool.values import ModelNeeds

_sessions: dict[Path, Any] = {}
_pages = itertools.count(1)


@dataclass
class NativePage:
    """What ``RuntimePage`` is to those who run sessions, with the page's rules for states."""

    lost: Fault | None = None
    threads: int = 1
    channel: Any = field(default_factory=lambda: SimpleNamespace(page_id=str(next(_pages))))
    sessions: dict[SessionKey, Session] = field(default_factory=dict)
    paths: dict[SessionKey, Path] = field(default_factory=dict)
    states: dict[str, tuple[int, dict[str, Packed]]] = field(default_factory=dict)

    def _alive(self) -> None:
        if self.lost is not None:
            raise self.lost

    async def set_state(self, name: str, step: int, slots: Mapping[str, Packed], *, timeout: float) -> None:
        self._alive()
        self.states[name] = (step, dict(slots))

    async def get_state(self, name: str, *, timeout: float) -> tuple[int, Mapping[str, Packed]]:
        self._alive()
        return self.states[name][0], dict(self.states[name][1])

    async def drop_state(self, name: str, *, timeout: float) -> None:
        self._alive()
        self.states.pop(name, None)

    def run(self, key: SessionKey, tensors: Mapping[str, Packed], use: StateUse | None) -> dict[str, Packed]:
        native = _sessions[self.paths[key]]
        feeds = {name: tensor.array() for name, tensor in tensors.items()}
        step, slots = self.states[use.name] if use else (0, {})
        if use:
            assert step == use.step, f"{use.name} stands at {step}, the run is for {use.step}"
            feeds |= {name: slots[slot].array() for name, slot in use.feed.items()}
        names = [output.name for output in native.get_outputs()]
        made = {name: pack(value) for name, value in zip(names, native.run(names, feeds), strict=True)}
        if use:
            slots |= {slot: made.pop(output) for output, slot in use.keep.items()}
            self.states[use.name] = (use.step + 1, slots)
        return made


class NativePool:
    """One page for each browser. A run with a number in ``before`` meets a browser that has died; one in ``after`` is done
    in a browser that dies before its answer is there. A browser's backend gets no node of a segment whose operators are
    all among those that it ``lacks``."""

    def __init__(
        self,
        before: Collection[int] = (),
        after: Collection[int] = (),
        lacks: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.lacks, self.loads = lacks or {}, 0
        self.settings = SimpleNamespace(launch_timeout=10.0, max_browsers=3)
        self.running = SimpleNamespace(lent=0)
        self.before, self.after = set(before), set(after)
        self.runs = 0
        self.pages: dict[tuple[str, int], Any] = {}
        self._beside: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()

    async def load(
        self, browser: str, key: SessionKey, model: ModelContent, timeout: float, slot: int = 0
    ) -> Loaded:
        await asyncio.sleep(0)
        instance = self.pages.get((browser, slot))
        if instance is None or instance.page.lost is not None:
            process = SimpleNamespace(version="1", installed=SimpleNamespace(name=browser, family=browser))
            instance = self.pages[browser, slot] = SimpleNamespace(
                name=browser,
                node="",
                slot=slot,
                identity=f"{browser}/{next(self._numbers)}",
                process=process,
                leases=0,
                page=NativePage(),
            )
        page = instance.page
        warm = key in page.sessions
        if not warm:
            if model.path not in _sessions:
                _sessions[model.path] = open_session(model.path)
            self.loads += 1
            page.paths[key] = model.path
            ops = {node.op_type for node in onnx.load(model.path, load_external_data=False).graph.node}
            placement = {"other" if ops <= set(self.lacks.get(browser, ())) else "wasm": len(ops)}
            page.sessions[key] = Session(
                key, key.sha256, model.label, placement, (), load_ms=0, fetch_ms=0, bytes=0
            )
        return Loaded(instance, page, page.sessions[key], warm=warm, launch_ms=0, load_ms=0)

    async def run_packed(
        self, loaded: Any, inputs: Mapping[str, Packed], timeout: float, state: StateUse | None = None
    ) -> Any:
        await asyncio.sleep(0)
        number, page = self.runs, loaded.page
        self.runs += 1
        if number in self.before and page.lost is None:
            page.lost = BrowserCrashed(f"before run {number}")
        page._alive()
        made = page.run(loaded.session.key, inputs, state)
        loaded.session.runs += 1
        if number in self.after:
            page.lost = BrowserCrashed(f"after run {number}")
            raise page.lost
        return SimpleNamespace(packed=made, values={"run_ms": 0.0})

    @property
    def instances(self) -> list[Any]:
        return list(self.pages.values())

    async def command(self, loaded: Any, command: Awaitable[Any]) -> Any:
        return await command

    async def release(self, loaded: Any) -> None:
        loaded.page.sessions.pop(loaded.session.key, None)

    def beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task


class Sharded:
    """A model in pieces, checked natively once; ``resident`` gives it over the browsers of a pool, inside a loop."""

    def __init__(self, path: Path, folder: Path, **needs: Any) -> None:
        content = path.read_bytes()
        self.content = ModelContent(hashlib.sha256(content).hexdigest(), path, path.name, path.stat().st_size)
        self.info = inspect(path)
        self.needs = ModelNeeds(**{"shards": 3, "backends": ("wasm",), "timeout": 5.0, **needs})
        self.made = self.cut(folder)

    def cut(
        self,
        folder: Path,
        refused: Mapping[str, frozenset[int]] = MappingProxyType({}),
        lent: Mapping[str, str] = MappingProxyType({}),
    ) -> Cut:
        """Over three equal browsers, none of which gets what it ``refused``; ``lent``: the node of those that are lent."""
        return cut(
            self.needs,
            self.content,
            [Seat(name, 0, ("wasm",), lent.get(name, "")) for name in ("one", "two", "three")],
            lambda seat: 1.0,
            memory=8 << 30,
            most=3,
            threads=1,
            folder=folder,
            refused=lambda seat: refused.get(seat.browser, frozenset()),
        )

    def resident(
        self,
        pool: Any,
        told: Callable[..., None] = lambda *told: None,
        made: Cut | None = None,
        visit: Any = None,
        breakers: Breakers | None = None,
        **needs: Any,
    ) -> ShardedResident:
        import dataclasses

        return ShardedResident(
            pool,
            dataclasses.replace(self.needs, **needs),
            self.content,
            self.info,
            made or self.made,
            ModelUse(key="model", label=self.content.label, sha256=self.content.sha256),
            lambda content, shapes: content.path,
            SimpleNamespace(shard=lambda *told: None),  # type: ignore[arg-type]
            told,
            lambda *seen: None,
            breakers or Breakers(),
            visit,
        )
