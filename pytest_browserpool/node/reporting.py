"""What a node tells the controller: rows of the history and events for the scheduler, in batches."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_browserpool import records
from pytest_browserpool.browsers.choice import Candidate, Weight
from pytest_browserpool.browsers.pool import Loaded, ModelContent
from pytest_browserpool.errors import BrowserPoolError, Fault, hide_from_traceback
from pytest_browserpool.node.journal import Journal, Operation
from pytest_browserpool.node.outbox import Outbox
from pytest_browserpool.node.use import ASKED_BY, Held, ModelUse, RunningTest
from pytest_browserpool.values import ModelNeeds, Plain, sharded_key

if TYPE_CHECKING:
    from pytest_browserpool.browsers.instance import BrowserInstance
    from pytest_browserpool.node.resident import Reply
    from pytest_browserpool.sharding.execute import LaneTimes


__tracebackhide__ = hide_from_traceback


class Reporter:
    """Thread-safe. ``run_id`` is left to the controller, which knows it."""

    def __init__(self, node: str, emit: Callable[[dict[str, Any]], None]) -> None:
        self._node = node
        self._outbox = Outbox(emit)
        self._emit = self._outbox.emit
        self._doing = False
        self._known_models: set[str] = set()
        self._keys: dict[str, str] = {}
        self._instances: dict[str, str] = {}
        self.journal = Journal(self._emit)
        self._launched: dict[str, dict[str, Any]] = {}
        self._sampled: dict[str, tuple[float, float]] = {}
        """Instance → when it was sampled last, and its busy seconds then."""

    def row(self, table: str, record: Plain) -> None:
        """Queues a row of the history."""
        self._outbox.row(table, record)

    def flush(self) -> None:
        """Sends the rows that are queued."""
        self._outbox.flush()

    def event(self, name: str, **fields: Any) -> None:
        """An event of ``placement.events``; the controller adds its own time."""
        self._emit({"kind": "event", "event": name, "fields": {"node": self._node, **fields}})

    # -- the pool ---------------------------------------------------------------------------------------------------

    def pool_event(self, name: str, fields: Mapping[str, Any]) -> None:
        """What the pool emits."""
        if name == "launched":
            self.journal.launched(self._name(fields["instance"]), fields["browser"])
            self._launched[fields["instance"]] = {**fields, "nodeid": ASKED_BY.get()}
            self._browser_row(fields["instance"])
            self.event("LaunchObserved", browser=fields["browser"], seconds=fields["launch_ms"] / 1000)
        elif name == "closed":
            self.journal.closed(self._name(fields["instance"]), fields["reason"])
            self._browser_row(fields["instance"], closed_at=time.time(), close_reason=fields["reason"])
            self._launched.pop(fields["instance"], None)
            self._sampled.pop(fields["instance"], None)
            self.event("SessionGone", browser=fields["browser"])
        elif name == "session_made":
            self.journal.session_made(self._name(fields["instance"]), fields["sha256"], fields["backend"])
        elif name == "session_gone":
            self.journal.session_gone(self._name(fields["instance"]), fields["sha256"], fields["backend"])
            model = self._keys.get(fields["sha256"])
            if model is not None:
                self.event("SessionGone", browser=fields["browser"], backend=fields["backend"], model=model)
        elif name == "sample":
            self._sample(fields)
        elif name == "begins":
            key = self._keys.get(fields["sha256"], "")
            model = key.partition("#sha256=")[0].rpartition("/")[
                2
            ]  # a line has room for the end of a long path
            self.doing(fields["what"], " in ".join(part for part in (model, fields["browser"]) if part))

    def doing(self, what: str, of: str = "") -> None:
        """What the node begins to do beside running a test, for people who watch; nothing: that is over."""
        if not what and not self._doing:
            return
        self._doing = bool(what)
        self._emit({"kind": "doing", "what": what, "of": of if what else ""})

    def _sample(self, fields: Mapping[str, Any]) -> None:
        """A point of each of a browser's series; its utilization is that since the last point."""
        instance, now, busy = fields["instance"], time.time(), fields["busy_s"]
        values = {
            "memory_bytes": fields["bytes"],
            "active_models": fields["models"],
            "sessions": fields["sessions"],
        }
        since, before = self._sampled.get(
            instance, (self._launched.get(instance, {}).get("launched_at", now), 0.0)
        )
        self._sampled[instance] = (now, busy)
        if now > since:
            values["utilization"] = min(1.0, max(0.0, (busy - before) / (now - since)))
        for name, value in values.items():
            self.metric(name, value, instance)

    def metric(self, name: str, value: float, instance: str = "", node: str = "") -> None:
        """A point of a series, of this node or of a browser; ``node``: that lends the browser, where it is another one."""
        row = records.MetricRecord(
            run_id="",
            node=node or self._node,
            at=time.time(),
            name=name,
            value=float(value),
            instance=self._name(instance, node) if instance else "",
        )
        self.row("metrics", row)

    def met_fault(self, operation: Operation, instance: str) -> None:
        """An operation goes into recovery; ``instance``: the browser that the fault hit."""
        self.journal.met_fault(operation, self._name(instance))

    def _name(self, instance: str, node: str = "") -> str:
        return f"{node or self._node}-{instance}"

    def _browser_row(self, instance: str, **more: Any) -> None:
        known = self._launched.get(instance)
        if known is None:
            return
        record = records.BrowserRecord(
            run_id="",
            node=self._node,
            instance=self._name(instance),
            name=known["browser"],
            family=known["family"],
            version=known["version"],
            executable=known["executable"],
            adapter=known.get("adapter", ""),
            launched_at=known["launched_at"],
            launch_ms=known["launch_ms"],
            nodeid=known["nodeid"],
            kept_code=known["kept_code"],
            **more,
        )
        self.row("browsers", record)
        self.flush()  # at once: the node may be lost before its test ends

    def adapter(self, instance: str, adapter: str) -> None:
        """The adapter that a browser's WebGPU really has, once it is used."""
        known = self._launched.get(instance)
        if known is not None and adapter and known.get("adapter") != adapter:
            known["adapter"] = adapter
            self._browser_row(instance)

    # -- models and operations --------------------------------------------------------------------------------------

    def model(self, content: ModelContent, needs: ModelNeeds) -> None:
        """A model that this node has used for the first time."""
        self._keys[content.sha256] = needs.model_key or content.label
        if content.sha256 in self._known_models:
            return
        self._known_models.add(content.sha256)
        record = records.ModelRecord(
            sha256=content.sha256,
            label=content.label,
            id=needs.id or "",
            type=needs.type or "",
            bytes=content.size,
        )
        self.row("models", record)

    def decision(self, test: RunningTest | None, weighed: Sequence[tuple[Weight, Candidate]]) -> None:
        """This node's own choice, where no scheduler made one; of each field lower goes first."""
        weight, chosen = weighed[0]
        record = records.DecisionRecord(
            run_id="",
            nodeid=test.nodeid if test else "",
            at=time.time(),
            node=self._node,
            browser=chosen.browser,
            backend=chosen.backend,
            factors=json.dumps(dataclasses.asdict(weight)),
            alternatives=json.dumps(
                [{"node": self._node, "browser": c.browser, "backend": c.backend} for _, c in weighed[1:6]]
            ),
        )
        self.row("decisions", record)

    def refused(self, browser: str, backend: str, model: str, error: BrowserPoolError) -> None:
        """A model does not run on a backend there."""
        self._emit(
            {
                "kind": "event",
                "event": "BackendRefusedThere",
                "fields": {"browser": browser, "backend": backend, "model": model},
                "detail": error.what,
            }
        )

    def operation(
        self,
        test: RunningTest | None,
        resident: Held,
        kind: str,
        started: float,
        latency_ms: float,
        *,
        page_ms: float | None = None,
        warm: bool = False,
        bytes_in: int = 0,
        bytes_out: int = 0,
        error: BrowserPoolError | None = None,
    ) -> None:
        """One operation, as the test saw it."""
        loaded, use = resident.loaded, resident.use
        operation = use.operation
        if operation is None or operation.kind != kind:  # a load within a call, say
            operation = Operation(kind)
        else:
            use.operation = None
        self.journal.ended(operation, ok=error is None)
        record = records.OperationRecord(
            run_id="",
            operation=operation.id,
            attempts=operation.attempts,
            nodeid=test.nodeid if test else "",
            node=self._node,
            instance=self._name(loaded.instance.identity, loaded.instance.node) if loaded else "",
            browser=use.browser,
            browser_version=use.browser_version,
            backend=use.backend,
            model=resident.content.sha256,
            kind=kind,
            started_at=started,
            latency_ms=latency_ms,
            page_ms=page_ms,
            warm=warm,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            degraded=use.degraded,
            placement=json.dumps(use.placement) if kind == "load" else "",
            ok=error is None,
            error=f"{type(error).__name__}: {error.what}"[:500] if error else "",
        )
        self.row("operations_log", record)
        if loaded is not None and use.adapter:
            self.adapter(loaded.instance.identity, use.adapter)

    def segment_load(
        self, test: RunningTest | None, segment: ModelContent, loaded: Loaded, started: float
    ) -> None:
        """A session of a part of a sharded model was found or made; the part stands as a model of its own, so that
        what a whole model's load takes is not mixed with it."""
        if segment.sha256 not in self._known_models:
            self._known_models.add(segment.sha256)
            model = records.ModelRecord(sha256=segment.sha256, label=segment.label, bytes=segment.size)
            self.row("models", model)
        process = loaded.instance.process
        record = records.OperationRecord(
            run_id="",
            operation=Operation("load").id,
            nodeid=test.nodeid if test else "",
            node=loaded.instance.node or self._node,
            instance=self._name(loaded.instance.identity, loaded.instance.node),
            browser=loaded.instance.name,
            browser_version=process.version,
            backend=loaded.session.key.backend,
            model=segment.sha256,
            kind="load",
            started_at=started,
            latency_ms=(time.time() - started) * 1000,
            warm=loaded.warm,
            placement=json.dumps(dict(loaded.session.placement)),
        )
        self.row("operations_log", record)

    def fault(
        self,
        test: RunningTest | None,
        resident: Held,
        fault: Fault,
        *,
        strategy: str,
        attempts: str,
        outcome: str,
        recovery_ms: float | None = None,
        seat: Candidate | None = None,
        instance: str = "",
        operation: Operation | None = None,
    ) -> None:
        """A fault and what was done about it. ``instance``: the browser that it hit, as the pool calls it."""
        record = records.FaultRecord(
            run_id="",
            node=self._node,
            at=time.time(),
            kind=fault.kind,
            nodeid=test.nodeid if test else "",
            browser=seat.browser if seat else resident.use.browser,
            operation=operation.id if operation is not None else "",
            instance=self._name(instance) if instance else "",
            detail=fault.what[:1000],
            strategy=strategy,
            attempts=attempts,
            outcome=outcome,
            recovery_ms=recovery_ms,
        )
        self.row("faults", record)

    def run(
        self,
        test: RunningTest | None,
        resident: Held,
        started: float,
        reply: Reply,
        inputs: Mapping[str, Any],
    ) -> None:
        """One successful call."""
        self.operation(
            test,
            resident,
            "run",
            started,
            reply.latency_ms,
            page_ms=reply.page_ms,
            warm=reply.warm,
            bytes_in=sum(a.nbytes for a in inputs.values()),
            bytes_out=sum(a.nbytes for a in reply.outputs.values()),
        )

    def called(
        self,
        test: RunningTest | None,
        resident: Held,
        started: float,
        inputs: Mapping[str, Any],
        wait: Callable[[], Reply],
    ) -> Reply:
        """What ``wait`` returns, on the record as a call that began at ``started``; a failure too."""
        resident.use.operation = Operation("run")
        try:
            reply = wait()
        except BrowserPoolError as error:
            self.operation(test, resident, "run", started, (time.time() - started) * 1000, error=error)
            raise
        self.run(test, resident, started, reply, inputs)
        return reply

    def benchmark(self, test: RunningTest | None, resident: Held, started: float, times: list[float]) -> None:
        """A benchmark: its median stands for all of its runs."""
        median = sorted(times)[len(times) // 2] if times else 0.0
        self.operation(test, resident, "benchmark", started, median, page_ms=median, warm=True)

    def shard(self, instance: BrowserInstance, times: LaneTimes, threads: int) -> None:
        """Where the time of one shard's browser went in a test, and how many threads its page had."""
        self.metric("shard_threads", threads, instance.identity, instance.node)
        for name in ("compute", "transfer", "idle"):
            self.metric(f"shard_{name}_ms", getattr(times, f"{name}_ms"), instance.identity, instance.node)

    # -- tests ------------------------------------------------------------------------------------------------------

    def _observed(self, test: RunningTest, use: ModelUse, seconds: float) -> None:
        browser, backend = use.browser, use.backend
        if use.shards > 1:
            # in several browsers at once: the scheduler knows the test by the one that it named
            if test.hint is None:
                return
            browser, backend = test.hint[0], test.hint[1] or backend
        model = sharded_key(use.key, use.shards)
        self.event(
            "RunObserved", browser=browser, backend=backend, model=model, seconds=seconds, test=test.nodeid
        )

    def test_ended(self, test: RunningTest) -> None:
        """What the scheduler learns from a test: the cost of loading (compiling included) and the rest of it; and what
        waited to be sent."""
        with self._outbox.together():
            self._tell_costs(test)
            self.journal.settle()
            self.doing("")
            self.flush()

    def _tell_costs(self, test: RunningTest) -> None:
        total = time.monotonic() - test.started
        setup = 0.0
        for use in test.models:
            # how long the shards of a model took to load is not known apart
            if not use.browser or use.shards > 1:
                continue
            load = (use.load_ms + use.compile_ms) / 1000
            setup += load + use.launch_ms / 1000
            where = {"browser": use.browser, "backend": use.backend, "model": use.key}
            if not use.warm and use.load_ms and not use.degraded:
                self.event("LoadObserved", **where, seconds=load, test=test.nodeid)
        if test.models and test.models[0].browser and not any(use.degraded for use in test.models):
            self._observed(test, test.models[0], max(0.0, total - setup))
