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
    nodeid: str | None = None
    """The test that asked for it; empty: launched ahead of its tests. None: a version that did not say recorded it."""
    kept_code: bool | None = None
    """Whether it started with compiled code of an earlier run. None: none is kept for such a browser, or a version that did
    not say recorded it."""


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
    """Of a node: cpu_percent, memory_bytes (of its pytest process), gpu_percent, gpu_memory_bytes, pool_size; of a
    browser: memory_bytes, utilization, active_models, sessions, and where it had a shard of a model in a test
    shard_compute_ms, shard_transfer_ms, shard_idle_ms, shard_threads; of the run (``node`` empty): queued_N,
    wait_mean_s_N and wait_longest_s_N for each priority N, migrations, migrations_useful, forecast_error,
    forecast_error_as_last_minute, decision_us_p50, decision_us_p99."""
    value: float
    instance: str = ""


@dataclass(frozen=True, kw_only=True)
class AppliedRecord(Plain):
    """A recommendation that ``browserpool apply`` had set when the run began."""

    run_id: str
    id: str
    """As in ``preferences.AppliedChange``: the same subject has the same id."""
    title: str = ""
    evidence: str = ""
    applied_at: float = 0.0
    expected_s: float | None = None
    """Seconds that each run was expected to save."""
    change: str = ""
    """JSON: the whole ``AppliedChange``."""


@dataclass(frozen=True, kw_only=True)
class JournalRecord(Plain):
    """One transaction of a node's state (``recovery.state``): in the order of ``number`` they make that state."""

    run_id: str
    node: str
    number: int
    """From 1 on, without gaps."""
    at: float
    changes: str
    """JSON: [[table, key, the row after it or null where it was forgotten], …]."""


@dataclass(frozen=True, kw_only=True)
class ForecastRecord(Plain):
    """What was expected of one browser, over all nodes, in the seconds after ``at``; written when that is over."""

    run_id: str
    at: float
    browser: str
    horizon_s: float
    utilization: float
    """Share of that time in which a node that has the browser runs a test in it, 0 … 1."""
    active_models: int = 0
    overloaded: bool = False
    confidence: float = 0.0
    as_last_minute: float = 0.0
    """What the simplest forecast said."""
    came: float | None = None
    """The utilization that came; None where the run ended before."""


@dataclass(frozen=True, kw_only=True)
class StealRecord(Plain):
    """A test that ran on another node than its first plan had, while that node was still there."""

    run_id: str
    nodeid: str
    at: float
    """When it was sent."""
    from_node: str
    to_node: str
    expected_there_s: float | None = None
    """Seconds from ``at`` to its end in its old place, by the estimates."""
    took_s: float | None = None
    """Seconds from ``at`` to its end; None where the node was lost."""
    useful: bool | None = None
    """Whether it ended sooner than it would have there."""


@dataclass(frozen=True, kw_only=True)
class AttachmentRecord(Plain):
    """Something to look at of a failed test."""

    run_id: str
    nodeid: str
    kind: str
    """console, page_errors (lines) or screenshot (PNG in base64)."""
    content: str


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
    | ForecastRecord
    | StealRecord
    | AttachmentRecord
    | AppliedRecord
    | JournalRecord
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
    "forecasts": ForecastRecord,
    "steals": StealRecord,
    "attachments": AttachmentRecord,
    "applied": AppliedRecord,
    "journal": JournalRecord,
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
    "forecasts": (),
    "steals": (),
    "attachments": ("run_id", "nodeid", "kind"),
    "applied": ("run_id", "id"),
    "journal": ("run_id", "node", "number"),
}
"""Primary keys; a row with the same key replaces the earlier one."""
