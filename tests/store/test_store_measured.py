"""What the analysis asks of the history: medians by run and way, nothing degraded, adapters kept apart."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import history_seed
import pytest

from pytest_browserpool import findings
from pytest_browserpool.errors import HistoryError
from pytest_browserpool.records import FaultRecord, MetricRecord, NodeRecord, OperationRecord
from pytest_browserpool.store import measured
from pytest_browserpool.store.connect import reading

WAYS = {"chromium/wasm": 60.0, "firefox/wasm": 20.0, "chromium/webgpu": 5.0}


@pytest.fixture
def seeded(db: Path) -> Path:
    chance = random.Random(1)
    runs = [history_seed.run_rows(n, WAYS, chance=chance, software=["chromium/webgpu"]) for n in range(7)]
    # a degraded call and a failed one that would move any median, and a load with its launch in it
    first = next(row for row in runs[0] if isinstance(row, OperationRecord))
    for number, change in enumerate(({"degraded": True}, {"ok": False})):
        runs[0] += [
            dataclasses.replace(first, operation=f"wild-{number}-{i}", latency_ms=1e6, **change)
            for i in range(99)
        ]
    cold = dataclasses.replace(first, warm=False)
    runs[0] += [
        dataclasses.replace(
            cold, operation="l", kind="load", latency_ms=2800.0, started_at=history_seed.START - 2
        ),
        dataclasses.replace(cold, operation="f", latency_ms=500.0),
        MetricRecord(
            run_id="seed-000", node="main", at=1.0, name="memory_bytes", value=5e8, instance=first.instance
        ),
        FaultRecord(
            run_id="seed-000", node="main", at=1.0, kind="page_hung", nodeid=first.nodeid, browser="chromium"
        ),
    ]
    history_seed.seed(db, runs)
    return db


def test_calls_are_medians_by_run_and_way(seeded: Path) -> None:
    with reading(seeded) as con:
        rows = measured.calls(con, ["seed-000", "seed-001"])
        raw = measured.calls(con, ["seed-000"], raw=8)
    assert len(rows) == 6
    assert {row["run"] for row in rows} == {"seed-000", "seed-001"}
    for row in rows:
        assert row["typical"] == pytest.approx(WAYS[f"{row['browser']}/{row['backend']}"], rel=0.2)
        assert row["adapter"] == ("software" if row["backend"] == "webgpu" else "")
        assert (row["host"], row["model"], row["size"]) == ("seed-host", "sample", 64)
    assert {len(row["raw"]) for row in raw} == {8}


def test_loads_are_without_launches_and_with_the_first_run(seeded: Path) -> None:
    with reading(seeded) as con:
        (row,) = measured.loads(con, ["seed-000"])
    assert row["typical"] == pytest.approx(2.8 - 0.8 + 0.5)


def test_memory_faults_and_shares(seeded: Path) -> None:
    with reading(seeded) as con:
        (peak,) = measured.memory(con, ["seed-000"])
        faults = {row["browser"]: row for row in measured.faulty(con, ["seed-000"])}
        shares = {row["browser"]: row for row in measured.shares(con, ["seed-000"])}
    assert (peak["browser"], peak["bytes"]) == ("chromium", 5e8)
    assert (faults["chromium"]["faulty"], faults["chromium"]["kinds"]) == (1, ["page_hung"])
    assert faults["firefox"]["faulty"] == 0
    assert shares["chromium"]["launches"] == 2
    assert shares["firefox"]["busy_s"] == pytest.approx(0.4)


def test_free_tests_are_those_whose_decision_names_another_way(seeded: Path) -> None:
    with reading(seeded) as con:
        rows = measured.free(con, ["seed-001"])
    (row,) = rows
    assert (row["browser"], row["backend"], row["tests"], row["calls"]) == ("chromium", "wasm", 1, 20)
    assert row["call_s"] == pytest.approx(1.2, rel=0.2)


def test_pace_is_against_the_same_tests_before(seeded: Path) -> None:
    with reading(seeded) as con:
        rows = measured.pace(con, ["seed-000", "seed-001"], ["seed-002"])
    whole = next(row for row in rows if row["run"] == "seed-002" and not row["browser"])
    assert whole["tests"] == 4
    assert whole["took_s"] == pytest.approx(whole["usual_s"])


def test_a_test_in_another_browser_is_not_that_browser_s_pace(db: Path) -> None:
    chance = random.Random(2)
    moved = history_seed.run_rows(3, WAYS, chance=chance, free_on="firefox")
    history_seed.seed(db, [*(history_seed.run_rows(n, WAYS, chance=chance) for n in range(3)), moved])
    with reading(db) as con:
        rows = measured.pace(con, ["seed-000", "seed-001", "seed-002"], ["seed-003"])
    found = {row["browser"]: row for row in rows if row["run"] == "seed-003"}
    assert (found["firefox"]["tests"], found[""]["tests"]) == (1, 4)


@pytest.mark.parametrize(
    ("since", "against", "window", "before", "after"),
    [
        (None, None, 7, 6, 1),
        ("seed-004", None, 3, 2, 1),
        ("2d", None, 2, 1, 1),
        ("2023-11-19", None, 2, 1, 1),
        (None, "seed-002", 7, 1, 4),
        (None, "0.1.0", 7, 7, 0),
        (None, "firefox 1.0", 7, 7, 0),
        ("1m", "seed-005", 2, 1, 1),
    ],
)
def test_which_runs_are_meant(
    seeded: Path, since: str | None, against: str | None, window: int, before: int, after: int
) -> None:
    now = history_seed.START + 6.5 * history_seed.DAY
    with reading(seeded) as con:
        runs = [findings.run_info(row) for row in measured.runs_of(con)]
        sides = findings.chosen(con, runs, since, against, now)
    assert (len(sides.window), len(sides.before), len(sides.after)) == (window, before, after)
    assert not set(sides.before) & set(sides.after)


def test_what_nobody_ran_is_named(seeded: Path) -> None:
    with reading(seeded) as con, pytest.raises(HistoryError, match="no run and no version is called '99'"):
        findings.look(con, against="99")


def test_the_end_of_a_run_gets_one_line(seeded: Path, tmp_path: Path) -> None:
    said = findings.advice(seeded)
    assert said is not None
    assert said.startswith("run sample on chromium/webgpu (software): chromium/wasm takes ")
    assert findings.advice(tmp_path / "none.duckdb") is None


def test_machines_that_have_another_name_every_time_are_compared_by_their_kind(db: Path) -> None:
    chance = random.Random(4)
    runs = []
    for n in range(6):
        ways = {way: ms * (2.5 if n == 5 else 1) for way, ms in WAYS.items()}
        runs.append(
            [
                dataclasses.replace(row, host=f"rented-{n}") if isinstance(row, NodeRecord) else row
                for row in history_seed.run_rows(n, ways, chance=chance)
            ]
        )
    history_seed.seed(db, runs)
    with reading(db) as con:
        found = findings.look(con)
    assert {c.subject for c in found.comparison.regressions if c.metric == "latency"} == {"sample"}
