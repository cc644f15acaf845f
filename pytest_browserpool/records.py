"""Rows of the history as they travel from the nodes to the controller.

One frozen dataclass for each table; the column names are the field names. ``TABLE`` maps them. Times ``*_at`` are
seconds since the epoch (float, UTC), durations carry their unit in the name, JSON columns hold text.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_browserpool.values import Plain


@dataclass(frozen=True, kw_only=True)
class RunRecord(Plain):
    """One pytest run. Written at its start and again (same ``run_id``) at its end."""

    run_id: str
    started_at: float
    finished_at: float | None = None
    exit_status: int | None = None
    arguments: str = ""
    scheduler: str = ""
    host: str = ""
    version: str = ""
    """Version of pytest-browserpool."""
    runtime: str = ""
    """Version of onnxruntime-web."""


@dataclass(frozen=True, kw_only=True)
class NodeRecord(Plain):
    """One xdist worker (or ``main`` without xdist). Written again when it goes."""

    run_id: str
    node: str
    host: str = ""
    cores: int = 0
    memory_gib: float = 0.0
    gpu: str = ""
    python: str = ""
    up_at: float = 0.0
    down_at: float | None = None
    down_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class BrowserRecord(Plain):
    """One browser process that a pool launched. ``instance`` is unique in the run. Written again when it closes."""

    run_id: str
    node: str
    instance: str
    name: str
    family: str
    version: str
    adapter: str = ""
    """``adapter.info`` in words, with "software" or "hardware"."""
    executable: str = ""
    launched_at: float = 0.0
    launch_ms: float = 0.0
    closed_at: float | None = None
    close_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelRecord(Plain):
    """One model by content."""

    sha256: str
    label: str
    """The source as the test wrote it."""
    id: str = ""
    type: str = ""
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TestRecord(Plain):
    """One test of one run: reported exactly once."""

    __test__ = False

    run_id: str
    nodeid: str
    node: str
    outcome: str
    """passed, failed, skipped, xfailed, xpassed, error, crashed."""
    started_at: float
    duration_s: float
    browser: str = ""
    backend: str = ""
    model: str = ""
    """sha256 of the model."""
    latency_ms: float | None = None
    """Median of the test's calls."""
    degraded: bool = False
    recoveries: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class OperationRecord(Plain):
    """One operation on one model: a load (session creation), a run (one call), a benchmark's summary, a reload."""

    run_id: str
    operation: str
    """Unique in the run; an operation that was retried keeps it, so that it counts once."""
    nodeid: str
    node: str
    instance: str
    browser: str
    browser_version: str
    backend: str
    model: str
    kind: str
    """load, run or benchmark."""
    started_at: float
    latency_ms: float
    """As the test saw it, from call to return."""
    page_ms: float | None = None
    """``session.run`` or ``InferenceSession.create`` alone, measured in the page."""
    warm: bool = False
    """Whether the session was there already (load) or had run before (run)."""
    bytes_in: int = 0
    bytes_out: int = 0
    attempts: int = 1
    degraded: bool = False
    placement: str = ""
    """JSON: nodes per execution provider."""
    ok: bool = True
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class DecisionRecord(Plain):
    """Why a test was sent where it was."""

    run_id: str
    nodeid: str
    at: float
    node: str
    browser: str = ""
    backend: str = ""
    expected_s: float | None = None
    """Expected seconds from now to the test's end: queue + launch + load + run."""
    breakdown: str = ""
    """JSON: {"queue": s, "launch": s, "load": s, "run": s}."""
    factors: str = ""
    """JSON: each factor of the capability score."""
    alternatives: str = ""
    """JSON: the candidates that were not taken, with what they would have cost."""


@dataclass(frozen=True, kw_only=True)
class FaultRecord(Plain):
    """One fault and what was done about it."""

    run_id: str
    node: str
    at: float
    kind: str
    """As in ``errors.Fault.kind``, or node_lost."""
    nodeid: str = ""
    operation: str = ""
    instance: str = ""
    browser: str = ""
    detail: str = ""
    strategy: str = ""
    attempts: str = ""
    """JSON: [{"action", "browser", "seconds", "outcome"}]."""
    outcome: str = ""
    """recovered, failed, degraded, not_retried."""
    recovery_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class MetricRecord(Plain):
    """One sample of a series: of a node (``instance`` empty) or of a browser."""

    run_id: str
    node: str
    at: float
    name: str
    """cpu_percent, memory_bytes, gpu_percent, utilization, active_models, sessions; of a browser that had a shard of a
    model in a test: shard_compute_ms, shard_transfer_ms, shard_idle_ms."""
    value: float
    instance: str = ""


Record = (
    RunRecord
    | NodeRecord
    | BrowserRecord
    | ModelRecord
    | TestRecord
    | OperationRecord
    | DecisionRecord
    | FaultRecord
    | MetricRecord
)

TABLES: dict[str, type[Plain]] = {
    "runs": RunRecord,
    "nodes": NodeRecord,
    "browsers": BrowserRecord,
    "models": ModelRecord,
    "tests": TestRecord,
    "operations_log": OperationRecord,
    "decisions": DecisionRecord,
    "faults": FaultRecord,
    "metrics": MetricRecord,
}
"""Table name → row type. ``operations`` itself is the documented view over ``operations_log``."""

KEYS: dict[str, tuple[str, ...]] = {
    "runs": ("run_id",),
    "nodes": ("run_id", "node"),
    "browsers": ("run_id", "instance"),
    "models": ("sha256",),
    "tests": ("run_id", "nodeid"),
    "operations_log": ("run_id", "operation"),
    "decisions": ("run_id", "nodeid", "at"),
    "faults": (),
    "metrics": (),
}
"""Primary keys; a row with the same key replaces the earlier one."""
