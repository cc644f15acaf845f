"""The history at scale: insert rate, time of each query, file size, report of a big run.

Usage: python benchmarks/history.py [--rows 1000000] [--tests 10000] [--keep DIRECTORY]

Prints a table. Goals: 50,000 rows/s, every query within 1 s, the page of 10,000 tests within 5 s.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_browserpool import findings
from pytest_browserpool.records import (
    BrowserRecord,
    DecisionRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    OperationRecord,
    RunRecord,
    TestRecord,
)
from pytest_browserpool.report import render
from pytest_browserpool.report.view import build_view
from pytest_browserpool.store import connect, integrity, measured, queries
from pytest_browserpool.store.flush import flush
from pytest_browserpool.store.rows import run_rows
from pytest_browserpool.store.spool import Batch
from pytest_browserpool.store.writer import HistoryWriter
from pytest_browserpool.values import Plain

RUNS = 50
BATCH = 20_000
START = 1_700_000_000.0
BROWSERS = {"chromium": "chrome", "firefox": "firefox", "headless-shell": "chrome"}
BACKENDS = ("wasm", "webgpu", "webnn")
MODELS = [f"{number:064x}" for number in range(1, 41)]


def operations(run_id: str, number: int, rows: int, chance: random.Random) -> Iterator[OperationRecord]:
    """Made-up operations of one run: realistic in shape, size and repetition."""
    begin = START + 10_000 * number
    for i in range(rows):
        browser = chance.choice(list(BROWSERS))
        node = f"gw{i % 4}"
        kind = "load" if i % 25 == 0 else "run"
        yield OperationRecord(
            run_id=run_id,
            operation=f"{node}-{i}",
            nodeid=f"tests/test_models.py::test_model_{i % 400}",
            node=node,
            instance=f"{node}-{browser}-1",
            browser=browser,
            browser_version="156.0.7300.1",
            backend=chance.choice(BACKENDS),
            model=MODELS[i % len(MODELS)],
            kind=kind,
            started_at=begin + i * 0.01,
            latency_ms=chance.lognormvariate(2, 1) * (50 if kind == "load" else 1),
            page_ms=chance.lognormvariate(1.9, 1),
            warm=i % 25 > 1,
            bytes_in=4096,
            bytes_out=512,
            placement='{"WebGPU": 120, "CPU": 3}',
        )


def surroundings(run_id: str, number: int, tests: int, chance: random.Random) -> list[Plain]:
    """The other rows of a run."""
    begin = START + 10_000 * number
    rows: list[Plain] = [RunRecord(run_id=run_id, started_at=begin, finished_at=begin + 900, exit_status=0)]
    for node in (f"gw{n}" for n in range(4)):
        rows.append(NodeRecord(run_id=run_id, node=node, host="bench", cores=2, up_at=begin))
        rows += [
            BrowserRecord(
                run_id=run_id,
                node=node,
                instance=f"{node}-{name}-1",
                name=name,
                family=family,
                version="156.0.7300.1",
                launched_at=begin + 5,
                launch_ms=chance.uniform(400, 3000),
            )
            for name, family in BROWSERS.items()
        ]
    for i in range(tests):
        place = {
            "node": f"gw{i % 4}",
            "browser": chance.choice(list(BROWSERS)),
            "backend": chance.choice(BACKENDS),
        }
        name = f"tests/test_models.py::test_model_{i}"
        at = begin + 900 * i / tests
        rows.append(
            TestRecord(
                run_id=run_id,
                nodeid=name,
                outcome="passed",
                started_at=at,
                duration_s=900 / tests * 3,
                model=MODELS[i % len(MODELS)],
                latency_ms=chance.lognormvariate(2, 1),
                **place,
            )
        )
        rows.append(
            DecisionRecord(
                run_id=run_id,
                nodeid=name,
                at=at - 0.01,
                expected_s=1.0,
                factors='{"type_affinity": 1.0, "free_capacity": 0.7, "score": 0.5}',
                alternatives='[{"node": "gw1", "browser": "firefox", "backend": "wasm", "expected_s": 2.5}]',
                **place,
            )
        )
    rows += [
        MetricRecord(
            run_id=run_id, node=f"gw{n}", at=begin + t, name="cpu_percent", value=chance.uniform(0, 100)
        )
        for n in range(4)
        for t in range(0, 900, 5)
    ]
    return rows


def timed(words: str, action: Callable[[], Any], goal: str = "") -> Any:
    started = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - started
    print(f"{words:<58} {seconds:9.3f} s   {goal}", flush=True)
    return result


def insert(db: Path, rows: int) -> None:
    chance = random.Random(1)
    models = tuple(ModelRecord(sha256=m, label=f"m{m[-2:]}.onnx") for m in MODELS)
    flush(db, [Batch(name="models", run_id="models", rows=models)])
    wall = cpu = 0.0
    for number in range(RUNS):
        run_id = f"run-{number:03d}"
        batch = tuple(surroundings(run_id, number, 400, chance))
        flush(db, [Batch(name=f"{run_id}-s", run_id=run_id, rows=batch)])
        made = list(operations(run_id, number, rows // RUNS, chance))
        for first in range(0, len(made), BATCH):
            some = Batch(name=f"{run_id}-{first}", run_id=run_id, rows=tuple(made[first : first + BATCH]))
            started, used = time.perf_counter(), time.process_time()
            flush(db, [some])
            wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - used
    words = f"insert, batches of {min(BATCH, rows // RUNS):,}, open and close included"
    print(f"{words:<58} {rows / wall:9,.0f} rows/s   goal 50,000")
    print(f"{'the same by processor time (on a machine that is busy)':<58} {rows / cpu:9,.0f} rows/s")


def small_flushes(db: Path) -> None:
    """What the writer costs a run: 50 operations every flush, on top of the whole history."""
    chance = random.Random(2)
    writer = HistoryWriter(db, "small", copies=1, interval=0.01)
    writer.start()
    writer.add(RunRecord(run_id="small", started_at=START))
    for number, row in enumerate(operations("small", RUNS + 1, 1000, chance)):
        writer.add(row)
        if number % 50 == 49:
            writer.commit()
    writer.close()
    mean = writer.stats.seconds / writer.stats.flushes
    print(f"{'a flush of 50 rows into all of it, mean of ' + str(writer.stats.flushes):<58} {mean:9.3f} s")


def ask(db: Path) -> None:
    questions: dict[str, Callable[[Any], Any]] = {
        "latest_runs": queries.latest_runs,
        "results_of (400 tests)": lambda con: queries.results_of(con, "run-049"),
        "latency (all runs)": queries.latency,
        "latency (one model)": lambda con: queries.latency(con, model="m03.onnx"),
        "operations_of (1000)": lambda con: queries.operations_of(con, "run-025"),
        "decisions_of": lambda con: queries.decisions_of(con, "tests/test_models.py::test_model_7"),
        "faults_of": lambda con: queries.faults_of(con, "run-001"),
        "warm_start (30 runs)": queries.warm_start,
        "typical_times (30 runs)": queries.typical_times,
        "rows_of_run": lambda con: queries.rows_of_run(con, "run-049"),
        "view latency_by_backend": lambda con: con.execute("FROM latency_by_backend").fetchall(),
        "view run_summary": lambda con: con.execute("FROM run_summary").fetchall(),
    }
    for name, question in questions.items():
        with connect.reading(db) as con:
            timed(f"query {name}", lambda question=question, con=con: question(con), "goal 1")  # type: ignore[misc]


def analyse(db: Path) -> None:
    """What ``browserpool analyze`` asks, of all runs; and all of it, computing included."""
    with connect.reading(db) as con:
        runs = [row["run"] for row in timed("analyze: runs_of", lambda: measured.runs_of(con), "goal 1")]
        questions: dict[str, Callable[[], Any]] = {
            "calls": lambda: measured.calls(con, runs),
            "calls with single ones (2 runs)": lambda: measured.calls(con, runs[:2], raw=64),
            "loads": lambda: measured.loads(con, runs),
            "memory": lambda: measured.memory(con, runs),
            "pace": lambda: measured.pace(con, runs[:-1], runs[-1:]),
            "faulty": lambda: measured.faulty(con, runs),
            "shares": lambda: measured.shares(con, runs),
            "free": lambda: measured.free(con, runs[-findings.WINDOW :]),
            "seconds_of_tests": lambda: measured.seconds_of_tests(con, runs, model="m03.onnx"),
        }
        for name, question in questions.items():
            timed(f"analyze: {name}", question, "goal 1")
        timed("browserpool analyze, 30 runs", lambda: findings.look(con))
        timed("browserpool analyze, all runs", lambda: findings.look(con, since="2020-01-01"))


def report(tests: int) -> None:
    chance = random.Random(3)
    rows = run_rows([*surroundings("big", 0, tests, chance), *operations("big", 0, tests * 3, chance)])
    page = timed(
        f"report of {tests:,} tests, {tests * 3:,} operations",
        lambda: render.page(build_view(rows)),
        "goal 5",
    )
    print(f"{'its size':<58} {len(page.encode()) / 1e6:9.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="operations to insert")
    parser.add_argument("--tests", type=int, default=10_000, help="tests in the report")
    parser.add_argument("--keep", type=Path, help="leave the history in this directory")
    given = parser.parse_args()
    directory = given.keep or Path(tempfile.mkdtemp(prefix="browserpool-bench-"))
    db = directory / "history.duckdb"
    try:
        print(f"{given.rows:,} operations in {RUNS} runs")
        insert(db, given.rows)
        print(f"{'file':<58} {db.stat().st_size / 1e6:9.1f} MB")
        small_flushes(db)
        ask(db)
        analyse(db)
        copies = integrity.copies_of(db, 2)
        timed("copy with checksum", lambda: flush(db, [], copies=copies))
        timed("verify, every block read", lambda: integrity.examine(db))
        report(given.tests)
    finally:
        if given.keep is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
