"""What a user sees of a run that went another way: a fallback to the CPU, a failover to a standby, a history without room."""

from __future__ import annotations

import contextlib
import html
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import onnx_models as make
import pytest
from acceptance_support import Reported, Runner
from chaos_support import dense, layers, spin
from click.testing import CliRunner

from pytest_browserpool.cli import cli
from pytest_browserpool.store import queries

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

FAULTS = """
    import contextlib
    import psutil
    import pytest
    from pytest_browserpool.recovery.signals import Step
    from pytest_browserpool.worker import node_for

    class ToTheCpu:
        "What progressive comes to when nothing else has helped, at once."
        name, coordinated = "to_the_cpu", False

        def suggest(self, situation):
            yield Step.CPU

    def pytest_browserpool_recovery_strategies():
        return [ToTheCpu()]

    def kill(node, browser, role=None):
        "The processes of a browser of this node, or those of that role; how many."
        killed = 0
        for instance in list(node.pool.instances):
            for process in instance.process.process_tree() if instance.name == browser else ():
                with contextlib.suppress(psutil.Error):
                    if role is None or f"--type={role}" in process.cmdline():
                        process.kill()
                        killed += 1
        return killed

    @pytest.fixture
    def node(request):
        return node_for(request.node)
"""

DEGRADED = """
    import threading
    import numpy as np
    import pytest
    from conftest import kill

    NEEDS = dict(browsers=["headless-shell"], backends=["webgpu"], fallback="cpu", recovery="to_the_cpu")
    X = {"x": np.linspace(-1, 1, 16 * 64, dtype=np.float32).reshape(16, 64)}

    @pytest.mark.model("dense.onnx", **NEEDS)
    def test_ends_on_the_cpu(model, node):
        before = model(X)["y"]
        assert kill(node, "headless-shell", "renderer")
        np.testing.assert_allclose(model(X)["y"], before, rtol=1e-4, atol=1e-5)
        assert (model.backend, model.degraded, model.recoveries) == ("wasm", True, 1)
        model(X)

    @pytest.mark.model("layers.onnx", **NEEDS)
    def test_fails_on_the_cpu(model, node):
        stop = threading.Event()

        def computes_on_wasm():
            pages = [p for i in list(node.pool.instances) for p in list(i.pages.values()) if p.channel._pending]
            return any(s.label == "layers.onnx" and s.key.backend == "wasm"
                       for p in pages for s in list(p.sessions.values()))

        def strike_again():
            while not stop.wait(0.005):
                if computes_on_wasm():
                    kill(node, "headless-shell", "renderer")

        assert kill(node, "headless-shell", "renderer")
        striking = threading.Thread(target=strike_again)
        striking.start()
        try:
            model({"x": np.ones((256, 256), np.float32)})
        finally:
            stop.set()
            striking.join()

    @pytest.mark.model("dense.onnx", **NEEDS)
    def test_undisturbed(model):
        for _ in range(3):
            model(X)
        assert (model.backend, model.degraded) == ("webgpu", False)
"""


def browserpool(directory: Path, *words: str) -> str:
    """What the command prints."""
    history = str(directory / ".browserpool" / "history.duckdb")
    done = CliRunner().invoke(cli, [*words, "--db", history], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def ask(directory: Path, *words: str) -> Any:
    """What the command says as JSON."""
    return json.loads(browserpool(directory, *words, "--json"))


def cells(done: Reported, test: str) -> list[str]:
    """The cells of a test's row in pytest-html's report."""
    blob = re.search(r'data-jsonblob="([^"]*)"', (done.directory / "report.html").read_text())
    assert blob is not None
    tests = json.loads(html.unescape(blob.group(1)))["tests"]
    (row,) = (row for rows in tests.values() for row in rows if row["testId"].endswith(test))
    return [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row["resultsTableRow"]]


def test_a_fallback_to_the_cpu_is_told_everywhere_and_counts_for_no_backend(run: Runner) -> None:
    run.pytester.makeconftest(FAULTS)
    (run.pytester.path / "dense.onnx").write_bytes(dense())
    (run.pytester.path / "layers.onnx").write_bytes(layers(120))
    run.suite(test_falls=DEGRADED)
    done = run()
    assert done.once() == {"passed": 2, "failure": 1}, done.output
    assert "2. run_on_cpu" in done.output, "the failure has the history of what was tried"
    done.result.stdout.fnmatch_lines(["degraded   2 tests ran on the CPU instead of the backend asked for"])
    shown = [
        cells(done, f"test_{name}")[3] for name in ("ends_on_the_cpu", "fails_on_the_cpu", "undisturbed")
    ]
    assert shown == ["wasm (degraded)", "wasm (degraded)", "webgpu"]
    assert "ran on CPU instead" in (done.directory / "report.html").read_text()

    tests = {row["test"].rpartition("::")[2]: row for row in ask(done.directory, "history", "tests")}
    assert {name: (row["outcome"], row["backend"], row["degraded"]) for name, row in tests.items()} == {
        "test_ends_on_the_cpu": ("passed", "wasm", True),
        "test_fails_on_the_cpu": ("failed", "wasm", True),
        "test_undisturbed": ("passed", "webgpu", False),
    }
    faults = ask(done.directory, "history", "faults")
    assert [(f["kind"], f["outcome"]) for f in faults] == [
        ("page_crashed", "degraded"),
        ("page_crashed", "failed"),
    ]
    assert all(json.loads(f["attempts"])[-1]["action"] == "run_on_cpu" for f in faults)
    operations = ask(done.directory, "history", "operations")
    assert {(o["backend"], o["kind"], o["degraded"], o["ok"]) for o in operations} == {
        ("webgpu", "load", False, True),
        ("webgpu", "run", False, True),
        ("wasm", "load", True, True),
        ("wasm", "run", True, True),
        ("wasm", "run", True, False),
    }
    # neither latencies nor what the scheduler starts from know anything of wasm
    latencies = ask(done.directory, "history", "latency")
    assert {row["backend"] for row in latencies} == {"webgpu"}
    assert {row["model"] for row in latencies if row["kind"] == "run"} == {"dense.onnx"}
    with duckdb.connect(str(done.directory / ".browserpool" / "history.duckdb"), read_only=True) as con:
        start = queries.warm_start(con)
    assert {backend for _, _, backend, *_ in start.loads} == {"webgpu"}
    assert [test.rpartition("::")[2] for *_, test, _ in start.runs] == ["test_undisturbed"]
    assert start.successes == (("headless-shell", "webgpu", "dense.onnx", 1, 1),)


REDUNDANT = """
    import time
    import numpy as np
    import pytest
    from conftest import kill

    X = {"x": np.linspace(-1, 1, 16 * 64, dtype=np.float32).reshape(16, 64), "rounds": np.array(5, np.int64)}

    @pytest.mark.model("spin.onnx", browsers=["headless-shell", "chromium"], backends=["wasm"], priority=1)
    def test_fails_over(model, node):
        before, first, loaded = model(X)["y"], model.browser.name, model.load_time_ms
        deadline = time.monotonic() + 120
        while not model._resident.standby.hot:
            assert time.monotonic() < deadline, model._resident.standby.reason
            time.sleep(0.05)
        assert (first, model.recoveries) == ("headless-shell", 0)
        assert kill(node, first)
        assert model(X)["y"].tobytes() == before.tobytes()
        assert (model.browser.name, model.recoveries, model.load_time_ms) == ("chromium", 1, loaded)
"""


def test_a_failover_to_a_standby_costs_no_load_and_is_on_the_record(run: Runner) -> None:
    run.pytester.makeconftest(FAULTS)
    (run.pytester.path / "spin.onnx").write_bytes(spin())
    run.suite(test_over=REDUNDANT)
    done = run("--browserpool-redundancy=2")
    assert done.once() == {"passed": 1}, done.output
    done.result.stdout.fnmatch_lines(["faults     1, 1 recovered"])
    assert "degraded " not in done.output
    row = cells(done, "test_fails_over")
    assert row[2].startswith("chromium ")
    assert row[3] == "wasm"
    assert row[6].endswith("1"), "its recoveries"
    nodeid = "test_over.py::test_fails_over"
    operations = ask(done.directory, "history", "operations", "--test", nodeid)
    assert [(o["kind"], o["browser"], o["attempts"], o["ok"]) for o in operations] == [
        ("load", "headless-shell", 1, True),
        ("run", "headless-shell", 1, True),
        ("run", "chromium", 2, True),
    ]
    ((decision,), (fault,)) = ask(done.directory, "explain", nodeid), ask(done.directory, "history", "faults")
    assert (fault["kind"], fault["strategy"], fault["outcome"]) == (
        "browser_crashed",
        "immediate",
        "recovered",
    )
    assert decision["browser"] == "headless-shell"
    (told,) = decision["faults"]
    assert (told["kind"], told["browser"], told["outcome"]) == (
        "browser_crashed",
        "headless-shell",
        "recovered",
    )
    assert [(a["action"], a["browser"]) for a in told["attempts"]] == [
        ("begin", "headless-shell"),
        ("use_standby", "chromium"),
    ]
    said = browserpool(done.directory, "explain", nodeid)
    assert re.search(
        r"met browser_crashed in headless-shell: recovered in \S+ s, use_standby in chromium", said
    )


PLAIN = """
    import numpy as np
    import pytest

    @pytest.mark.model("affine.onnx", browsers=["headless-shell"], backends=["wasm"])
    def test_answers(model):
        assert model({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1
"""

DISKS = {"read-only": "size=1m,ro", "full": "size=64k"}
"""How the file system of the history is mounted: the smaller one has no room for an empty DuckDB file."""


@pytest.fixture(params=DISKS)
def bad_disk(request: pytest.FixtureRequest, run: Runner) -> Iterator[str]:
    """A file system for the history that takes nothing, and which."""
    place = run.pytester.path / ".browserpool"
    place.mkdir()
    options = DISKS[request.param]
    mounting = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    if request.param == "full":
        with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    yield request.param
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_history_that_cannot_be_written_costs_no_test_and_is_told(run: Runner, bad_disk: str) -> None:
    (run.pytester.path / "affine.onnx").write_bytes(make.affine())
    run.suite(test_plain=PLAIN)
    done = run("-q") if bad_disk == "full" else run()
    assert done.result.ret == 0, done.output
    assert done.once() == {"passed": 1}
    done.result.stdout.fnmatch_lines(["WARNING: *"])
    lost = re.search(r"WARNING: (\d+) rows of this run's history are LOST", done.output)
    assert lost
    assert int(lost[1]) >= 4, "its run, test, browser and calls"
    said = {"read-only": "Read-only file system", "full": "No space left on device"}[bad_disk]
    assert said in done.output
