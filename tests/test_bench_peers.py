"""The instruments of the peers' benchmark: what is measured is the whole tree, and a bound is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"

ORPHAN = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; t = time.process_time()\\nwhile time.process_time() - t < 0.5: pass"])
block = bytearray(64 << 20)
block[::4096] = b"x" * len(block[::4096])
time.sleep(SECONDS)
print("done")
"""


def measured(program: str) -> dict[str, float]:
    """What ``measure.run`` says of ``program``, in a process of its own: it adopts orphans for its whole life."""
    script = (
        f"import sys, os, json; sys.path.insert(0, {str(PEERS)!r})\n"
        "import measure; from pathlib import Path\n"
        "measure.adopt_orphans()\n"
        f"done = measure.run([sys.executable, '-c', {program!r}], os.environ, Path('.'), 60)\n"
        "print(json.dumps(vars(done)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_an_orphans_processor_time_and_the_trees_memory_count() -> None:
    found = measured(ORPHAN.replace("SECONDS", "3"))
    assert found["code"] == 0
    assert found["cpu_seconds"] >= 0.5, "an orphan's own"
    assert found["peak_mib"] >= 64
    assert found["left_behind"] == 0


def test_a_bound_is_no_less_than_half_of_all_work_nor_than_the_longest_chain() -> None:
    script = (
        f"import sys, json; sys.path.insert(0, {str(PEERS)!r}); import os; os.environ['PEERS_SUITE'] = '.'\n"
        "import limit; print(json.dumps(limit.bound(json.load(sys.stdin))))"
    )

    def piece(kind: str, browser: str, wall: float, cpu: float) -> dict[str, object]:
        return {"kind": kind, "browser": browser, "what": "", "wall": wall, "cpu": cpu}

    def bound(*pieces: dict[str, object]) -> dict[str, float]:
        done = subprocess.run(
            [sys.executable, "-c", script], input=json.dumps(pieces), capture_output=True, text=True, timeout=60, check=True
        )  # fmt: skip
        found: dict[str, float] = json.loads(done.stdout)
        return found

    alone = [piece("launch", "a", 1, 1), piece("load", "a", 2, 2), piece("first run", "a", 10, 10)]
    assert bound(*alone)["bound"] == 13, "one session's chain cannot be divided"
    both = [*alone, piece("launch", "b", 1, 1), piece("load", "b", 2, 2), piece("first run", "b", 10, 20)]
    assert bound(*both)["bound"] == (13 + 23) / 2, "a run that keeps both cores busy leaves none to the other"
    assert bound(*both)["row"] == 26


@pytest.mark.parametrize(
    ("testcase", "passed"),
    [
        ('<testcase classname="a" name="b"><properties/></testcase>', 1),
        ('<testcase classname="a" name="b"><failure message="x"/></testcase>', 0),
        ('<testcase classname="a" name="b"><skipped/></testcase>', 0),
        ('<testcase classname="a" name="b"/><testcase classname="a" name="b"/>', 1),
    ],
    ids=["passed", "failed", "skipped", "told twice"],
)
def test_a_lost_test_is_one_that_did_not_pass(tmp_path: Path, testcase: str, passed: int) -> None:
    (tmp_path / "result").write_text(f"<testsuites><testsuite>{testcase}</testsuite></testsuites>")
    script = (
        f"import sys; sys.path.insert(0, {str(PEERS)!r}); import runners; from pathlib import Path\n"
        f"print(runners.passed('load', Path({str(tmp_path / 'result')!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) == passed
