"""A run for the reports' tests: made up, and named so."""

from __future__ import annotations

import random

from pytest_browserpool.records import (
    AttachmentRecord,
    BrowserRecord,
    DecisionRecord,
    FaultRecord,
    ForecastRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    StealRecord,
    TestRecord,
)
from pytest_browserpool.store.rows import RunRows, run_rows
from pytest_browserpool.values import Plain

START = 1_700_000_000.0
EVIL = "<script>document.title='owned'</script>\"'&"

BROWSERS = {
    "chromium": ("chrome", "156.0.7300.1", "google swiftshader (software)"),
    "firefox": ("firefox", "153.1", "llvmpipe (LLVM 15, 256 bits) (software)"),
    "headless-shell": ("chrome", "147.0.7100.2", ""),
}
MODELS = {"sample-vad": ("audio", 8.0), "sample-ocr": ("vision", 42.0), "sample-embedding": ("text", 21.0)}


def sample_run(tests: int = 60, nodes: int = 2, seed: int = 7) -> RunRows:
    """A run with several nodes, browsers, models, faults; deterministic."""
    chance = random.Random(seed)
    rows: list[Plain] = [
        ModelRecord(sha256=m, label=f"models/{m}.onnx", id=m, type=t[0]) for m, t in MODELS.items()
    ]
    clock = {f"gw{n}": START + 2.0 for n in range(nodes)}
    instances: dict[tuple[str, str], str] = {}
    warm: set[tuple[str, str]] = set()
    for number in range(tests):
        node = min(clock, key=lambda n: clock[n])
        browser, model = chance.choice(list(BROWSERS)), chance.choice(list(MODELS))
        backend = "webnn" if browser == "headless-shell" else chance.choice(["wasm", "webgpu"])
        begin = now = clock[node]
        if (node, browser) not in instances:
            instances[node, browser] = f"{node}-{browser}-1"
            now += chance.uniform(0.4, 3.0)
            rows.append(_browser(node, browser, now, now - begin))
        key = (instances[node, browser], model + backend)
        test = f"tests/test_sample.py::test_{model}_{number}[{EVIL if number == 3 else browser}]"
        if key not in warm:
            warm.add(key)
            cost = chance.uniform(0.2, 2.5)
            rows.append(
                _operation(
                    test, node, key[0], browser, backend, model, "load", now, cost * 1000, number, warm=False
                )
            )
            now += cost
        calls = [chance.lognormvariate(0, 0.25) * MODELS[model][1] for _ in range(5)]
        for i, latency in enumerate(calls):
            rows.append(
                _operation(
                    test, node, key[0], browser, backend, model, "run", now, latency, (number, i), warm=i > 0
                )
            )
            now += latency / 1000 + 0.05
        outcome = "failed" if number in (3, 17) else "crashed" if number == 29 else "passed"
        rows.append(
            TestRecord(
                run_id="sample-run",
                nodeid=test,
                node=node,
                outcome=outcome,
                started_at=begin,
                duration_s=now - begin,
                browser=browser,
                backend=backend,
                model=model,
                latency_ms=sorted(calls)[2],
                recoveries=int(number == 17),
                message=f"AssertionError: {EVIL}" if outcome == "failed" else "",
            )
        )
        rows.append(_decision(test, node, browser, backend, begin, now))
        clock[node] = now + 0.02
    end = max(clock.values())
    rows.append(
        FaultRecord(
            run_id="sample-run",
            node="gw0",
            at=START + (end - START) / 2,
            kind="browser_crashed",
            browser="chromium",
            nodeid="tests/test_sample.py::test_sample-ocr_17",
            detail=f"signal 9 {EVIL}",
            strategy="progressive",
            outcome="recovered",
            recovery_ms=1830.0,
            attempts=_STEPS,
        )
    )
    rows += _measured(clock, instances, end, chance)
    rows += _looked_ahead(end, chance)
    rows += [
        AttachmentRecord(run_id="sample-run", nodeid=t.nodeid, kind=kind, content=content)
        for t in rows
        if isinstance(t, TestRecord) and t.outcome == "failed"
        for kind, content in (
            ("console", f"error: {EVIL}"),
            ("page_errors", f"TypeError {EVIL}"),
            ("screenshot", PICTURE),
        )
    ]
    rows += [
        NodeRecord(run_id="sample-run", node=n, host="sample-host", cores=2, memory_gib=19.2, up_at=START)
        for n in clock
    ]
    rows.append(
        RunRecord(
            run_id="sample-run",
            started_at=START,
            finished_at=end + 1,
            exit_status=1,
            scheduler="browserpool",
            host="sample-host",
            version="0.1.0",
            runtime="1.30.0",
        )
    )
    return run_rows(rows)


_STEPS = """[
    {"action": "begin", "browser": "chromium", "seconds": 0.21, "outcome": "browser_crashed"},
    {"action": "restart_browser", "browser": "chromium", "seconds": 1.1, "outcome": "ok", "detail": "<b>new</b>"},
    {"action": "retry", "browser": "chromium", "seconds": 0.52, "outcome": "ok"}
]"""


def _measured(
    clock: dict[str, float], instances: dict[tuple[str, str], str], end: float, chance: random.Random
) -> list[Plain]:
    """The series: a point every two seconds of each."""
    rows: list[Plain] = []

    def point(at: float, name: str, value: float, node: str = "", instance: str = "") -> None:
        rows.append(
            MetricRecord(run_id="sample-run", node=node, at=at, name=name, value=value, instance=instance)
        )

    at, queued = START + 1.0, {1: 12, 3: 40, 5: 8}
    while at < end:
        for node in clock:
            point(at, "cpu_percent", chance.uniform(30, 100), node)
            point(at, "memory_bytes", chance.uniform(2e8, 2.4e8), node)
        for (node, _), instance in instances.items():
            point(at, "utilization", chance.betavariate(2, 2), node, instance)
            point(at, "memory_bytes", chance.uniform(3e8, 9e8), node, instance)
            point(at, "active_models", float(chance.randint(1, 3)), node, instance)
        for priority in queued:
            queued[priority] = max(0, queued[priority] - chance.randint(0, 5))
            point(at, f"queued_{priority}", float(queued[priority]))
        at += 2.0
    return rows


PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""


def _looked_ahead(end: float, chance: random.Random) -> list[Plain]:
    """Forecasts of each browser, and two moved tests."""
    rows: list[Plain] = []
    at = START + 2.0
    while at < end - 10:
        for browser in BROWSERS:
            came = chance.uniform(0.2, 0.8)
            rows.append(
                ForecastRecord(
                    run_id="sample-run",
                    at=at,
                    browser=browser,
                    horizon_s=10.0,
                    utilization=min(1.0, max(0.0, came + chance.gauss(0, 0.08))),
                    as_last_minute=chance.uniform(0, 1),
                    came=came,
                )
            )
        at += 4.0
    for number, useful in ((5, True), (11, False)):
        rows.append(
            StealRecord(
                run_id="sample-run",
                nodeid=f"tests/test_sample.py::test_moved_{number}[{EVIL}]",
                at=START + number,
                from_node="gw0",
                to_node="gw1",
                expected_there_s=4.0,
                took_s=2.5 if useful else 5.0,
                useful=useful,
            )
        )
    return rows


def _browser(node: str, browser: str, at: float, seconds: float) -> BrowserRecord:
    family, version, adapter = BROWSERS[browser]
    return BrowserRecord(
        run_id="sample-run",
        node=node,
        instance=f"{node}-{browser}-1",
        name=browser,
        family=family,
        version=version,
        adapter=adapter,
        launched_at=at,
        launch_ms=seconds * 1000,
    )


def _operation(
    test: str,
    node: str,
    instance: str,
    browser: str,
    backend: str,
    model: str,
    kind: str,
    at: float,
    latency: float,
    number: object,
    *,
    warm: bool,
) -> OperationRecord:
    return OperationRecord(
        run_id="sample-run",
        operation=f"{kind}-{number}",
        nodeid=test,
        node=node,
        instance=instance,
        browser=browser,
        browser_version=BROWSERS[browser][1],
        backend=backend,
        model=model,
        kind=kind,
        started_at=at,
        latency_ms=latency,
        warm=warm,
    )


def _decision(test: str, node: str, browser: str, backend: str, begin: float, end: float) -> DecisionRecord:
    return DecisionRecord(
        run_id="sample-run",
        nodeid=test,
        at=begin - 0.01,
        node=node,
        browser=browser,
        backend=backend,
        expected_s=(end - begin) * 1.1,
        breakdown='{"queue": 0.0, "launch": 0.4, "load": 0.9, "run": 0.3}',
        factors='{"type_affinity": 1.0, "free_capacity": 0.8, "score": 0.62}',
        alternatives='[{"node": "gw1", "browser": "firefox", "backend": "wasm", "expected_s": 4.2}]',
    )
