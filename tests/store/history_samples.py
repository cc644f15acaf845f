"""Records for tests: made up, and named so."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pytest_browserpool.records import (
    AppliedRecord,
    AttachmentRecord,
    BrowserRecord,
    DecisionRecord,
    FaultRecord,
    ForecastRecord,
    JournalRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    StealRecord,
    TestRecord,
)
from pytest_browserpool.store import columns
from pytest_browserpool.values import Plain

START = 1_700_000_000.0


def run(run_id: str = "run-1", **changes: Any) -> RunRecord:
    return RunRecord(**{"run_id": run_id, "started_at": START, **changes})


def operation(number: int = 1, run_id: str = "run-1", **changes: Any) -> OperationRecord:
    fields = {
        "run_id": run_id,
        "operation": f"op-{number}",
        "nodeid": "tests/test_sample.py::test_one",
        "node": "gw0",
        "instance": "gw0-chromium-1",
        "browser": "chromium",
        "browser_version": "156.0",
        "backend": "wasm",
        "model": "ab" * 32,
        "kind": "run",
        "started_at": START + number,
        "latency_ms": 5.0 + number,
        "warm": True,
    }
    return OperationRecord(**{**fields, **changes})


def a_run() -> list[Plain]:
    """One small run with a row in every table: 2 launches, 1 load, 3 calls, 2 tests."""
    test = "tests/test_sample.py::test_one"
    browser = {"run_id": "run-1", "node": "gw0", "family": "chrome", "version": "156.0"}
    return [
        run(finished_at=START + 20, exit_status=0, arguments="--browserpool -n 2", host="sample-host"),
        NodeRecord(run_id="run-1", node="gw0", host="sample-host", cores=2, up_at=START),
        BrowserRecord(
            **browser, instance="gw0-chromium-1", name="chromium", launched_at=START + 1, launch_ms=500.0
        ),
        BrowserRecord(
            **browser, instance="gw0-chromium-2", name="chromium", launched_at=START + 9, launch_ms=700.0
        ),
        ModelRecord(sha256="ab" * 32, label="models/sample.onnx", id="sample", type="audio", bytes=1234),
        operation(1, kind="load", started_at=START + 2, latency_ms=1000.0, warm=False),
        operation(2, started_at=START + 3, latency_ms=200.0, warm=False),
        operation(3, started_at=START + 3.5, latency_ms=5.0),
        operation(4, started_at=START + 3.6, latency_ms=7.0),
        TestRecord(
            run_id="run-1",
            nodeid=test,
            node="gw0",
            outcome="passed",
            started_at=START + 1,
            duration_s=3.0,
            browser="chromium",
            backend="wasm",
            model="ab" * 32,
            latency_ms=7.0,
        ),
        TestRecord(
            run_id="run-1",
            nodeid="tests/test_sample.py::test_two",
            node="gw0",
            outcome="failed",
            started_at=START + 6,
            duration_s=0.5,
            message="assert 1 == 2",
        ),
        DecisionRecord(
            run_id="run-1",
            nodeid=test,
            at=START + 0.5,
            node="gw0",
            browser="chromium",
            backend="wasm",
            expected_s=3.2,
            breakdown='{"queue": 0.0, "launch": 0.5, "load": 1.2, "run": 1.5}',
            factors='{"type_affinity": 1.0, "score": 0.8}',
            alternatives='[{"node": "gw1", "browser": "firefox", "backend": "wasm", "expected_s": 5.5}]',
        ),
        FaultRecord(
            run_id="run-1",
            node="gw0",
            at=START + 8,
            kind="browser_crashed",
            outcome="recovered",
            recovery_ms=900.0,
        ),
        MetricRecord(run_id="run-1", node="gw0", at=START + 1, name="cpu_percent", value=50.0),
        JournalRecord(run_id="run-1", node="gw0", number=1, at=START, changes="[]"),
        ForecastRecord(
            run_id="run-1",
            at=START,
            browser="chromium",
            horizon_s=60.0,
            utilization=0.5,
            came=0.4,
            as_last_minute=0.1,
        ),
        StealRecord(
            run_id="run-1",
            nodeid=test,
            at=START,
            from_node="gw1",
            to_node="gw0",
            expected_there_s=9.0,
            took_s=3.0,
            useful=True,
        ),
        AttachmentRecord(
            run_id="run-1", nodeid="tests/test_sample.py::test_two", kind="console", content="error: x"
        ),
        AppliedRecord(
            run_id="run-1", id="prefer/sample", title="run sample on chromium/wasm", expected_s=2.0
        ),
    ]


_VALUES: dict[type, st.SearchStrategy[Any]] = {
    # NUL and lone surrogates are replaced on the way in; a test of its own holds that
    str: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    float: st.floats(allow_nan=False),
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
}


def records(table: str) -> st.SearchStrategy[Plain]:
    """Any record that ``table`` can hold."""
    from pytest_browserpool.records import TABLES

    fields = {}
    for column in columns.columns_of(table):
        value = _VALUES[column.type]
        fields[column.name] = st.none() | value if column.optional else value
    return st.builds(TABLES[table], **fields)
