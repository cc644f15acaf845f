"""Histories for tests, made up and named so: runs of two browsers side by side, with planted differences."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_browserpool.records import (
    BrowserRecord,
    DecisionRecord,
    ModelRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    TestRecord,
)
from pytest_browserpool.store.flush import flush
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.values import Plain

START = 1_700_000_000.0
DAY = 86_400.0
SHA = "5a" * 32
CALLS = 20


def run_rows(
    number: int,
    calls_ms: Mapping[str, float],
    *,
    chance: random.Random,
    model: str = "sample",
    free_on: str = "chromium",
    noise: float = 0.1,
    software: Sequence[str] = (),
) -> list[Plain]:
    """One run in which ``model`` ran pinned to each browser of ``calls_ms`` (browser/backend → ms a call), and one test
    was free and ran on ``free_on``."""
    run_id, at = f"seed-{number:03d}", START + number * DAY
    place = {"run_id": run_id, "node": "main"}
    rows: list[Plain] = [
        RunRecord(run_id=run_id, started_at=at, finished_at=at + 60, exit_status=0, version="0.1.0"),
        NodeRecord(**place, host="seed-host", cores=2, up_at=at),
        ModelRecord(sha256=SHA, label=f"{model}.onnx", id=model, bytes=100),
    ]
    for place_, (way, typical) in enumerate(calls_ms.items()):
        browser, backend = way.split("/")
        instance = f"main-{browser}-{way}"
        adapter = "a card (software)" if way in software else "a card (hardware)"
        names = {"name": browser, "family": browser, "version": "1.0", "adapter": adapter}
        rows.append(BrowserRecord(**place, instance=instance, **names, launched_at=at, launch_ms=800.0))
        tests = [f"test_x.py::test_each[{browser}-{backend}]"]
        if way.startswith(free_on) and not any(isinstance(row, DecisionRecord) for row in rows):
            tests.append("test_seed.py::test_free")
            rows.append(_choice(place, tests[1], browser, backend, list(calls_ms)))
        for nodeid in tests:
            ran = {"nodeid": nodeid, "browser": browser, "backend": backend, "model": SHA}
            test_at = at + 1 + 10 * place_
            rows.append(
                TestRecord(
                    **place, **ran, outcome="passed", started_at=test_at, duration_s=CALLS * typical / 1000
                )
            )
            rows += _calls(place, ran, instance, test_at, typical, noise, chance)
    return rows


def _choice(
    place: dict[str, str], nodeid: str, browser: str, backend: str, ways: Sequence[str]
) -> DecisionRecord:
    others = ", ".join(
        f'{{"node": "main", "browser": "{b}", "backend": "{k}"}}'
        for b, k in (way.split("/") for way in ways)
        if (b, k) != (browser, backend)
    )
    return DecisionRecord(
        **place, nodeid=nodeid, at=START, browser=browser, backend=backend, alternatives=f"[{others}]"
    )


def _calls(
    place: dict[str, str],
    ran: dict[str, str],
    instance: str,
    at: float,
    typical: float,
    noise: float,
    chance: random.Random,
) -> list[OperationRecord]:
    of = {**place, **ran, "instance": instance, "browser_version": "1.0"}
    return [
        OperationRecord(
            **of,
            operation=f"{ran['nodeid']}-{instance}-{i}",
            kind="run",
            started_at=at + i * 0.01,
            latency_ms=typical * chance.lognormvariate(0, noise),
            warm=True,
            bytes_in=64,
        )
        for i in range(CALLS)
    ]


def seed(db: Path, runs: Sequence[Sequence[Plain]]) -> None:
    """Write ``runs`` into the history."""
    rows = tuple(row for run in runs for row in run)
    flush(db, [Batch(name="seed", run_id="seed", rows=rows)])
