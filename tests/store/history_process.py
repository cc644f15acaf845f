"""A process that writes history until it is done or killed; prints each number that a commit made durable.

Usage: python history_process.py DB RUN_ID BATCHES ROWS_PER_BATCH [INTERVAL]
With -1 BATCHES it never commits: it adds ROWS_PER_BATCH numbers a second until it is killed.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from pytest_browserpool.records import MetricRecord, RunRecord
from pytest_browserpool.store.writer import HistoryWriter


def main(db: str, run_id: str, batches: str, rows: str, interval: str = "5") -> None:
    writer = HistoryWriter(Path(db), run_id, interval=float(interval), copy_interval=0.5)
    writer.add(RunRecord(run_id=run_id, started_at=1.0))
    writer.start()
    for number in itertools.count() if int(batches) < 0 else ():
        writer.add(MetricRecord(run_id=run_id, node="gw0", at=1.0, name="n", value=float(number)))
        time.sleep(1 / int(rows))
    for batch in range(int(batches)):
        numbers = range(batch * int(rows), (batch + 1) * int(rows))
        writer.add(
            *(MetricRecord(run_id=run_id, node="gw0", at=float(n), name="n", value=float(n)) for n in numbers)
        )
        if writer.commit():
            print(batch, flush=True)
    writer.close()
    for line in writer.warnings:
        print("warning:", line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
