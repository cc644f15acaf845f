"""Nodes of this machine in a directory of their own (``--tx popen//chdir=``), and what is asked for but not there."""

from __future__ import annotations

import shutil
import sys
import venv
from pathlib import Path

import duckdb
import onnx_models as make
import pytest
from acceptance_support import Runner

SUITE = """
    import os, pathlib
    import numpy as np
    import pytest

    @pytest.mark.parametrize("i", range(2))
    @pytest.mark.model("models/affine.onnx", browsers=["headless-shell"], backends=["wasm"])
    def test_there(model, i):
        assert model({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1
        with open("ran", "a") as file:
            file.write(f"{os.getcwd()}\\n")
"""
PLAIN = "import pytest\n\n@pytest.mark.parametrize('i', range(3))\ndef test_plain(i): pass\n"


@pytest.fixture
def copy(run: Runner, tmp_path: Path) -> Path:
    """Where the suite's copy is to be."""
    return tmp_path / "copy"


@pytest.mark.browser
def test_a_node_in_a_copy_runs_there_and_tests_the_models_of_here(run: Runner, copy: Path) -> None:
    run.suite(test_it=SUITE)
    here = run.pytester.path
    shutil.copytree(here, copy)
    (here / "models").mkdir()
    (here / "models" / "affine.onnx").write_bytes(make.affine())  # the copy lacks it
    done = run("--tx", f"popen//chdir={copy}", str(here / "test_it.py"))
    assert done.result.ret == 0, done.output
    assert done.once() == {"passed": 2}
    assert (copy / "ran").read_text().split() == [str(copy)] * 2
    assert not (here / "ran").exists()
    assert not (copy / ".browserpool").exists()
    with duckdb.connect(str(here / ".browserpool" / "history.duckdb"), read_only=True) as con:
        rows = con.execute("SELECT nodeid, outcome FROM tests ORDER BY nodeid").fetchall()
    assert rows == [(f"test_it.py::test_there[{i}]", "passed") for i in range(2)]


def test_a_copy_that_lacks_the_tests_costs_itself_and_says_so(run: Runner, copy: Path) -> None:
    run.suite(test_it=PLAIN)
    copy.mkdir()
    done = run("--tx", "popen", "--tx", f"popen//chdir={copy}", "test_it.py")
    assert done.result.ret == 0, done.output
    assert done.once() == {"passed": 3}
    assert "gw1 ran nothing: a file or test that was asked for is not there" in done.output


def test_an_interpreter_that_lacks_what_a_node_needs_costs_its_node_and_not_the_run(
    run: Runner, tmp_path: Path
) -> None:
    run.suite(test_it=PLAIN)
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=True)
    for python, why in (
        (bare / "bin" / "python", "has none of pytest-browserpool"),
        (tmp_path / "nowhere", "No such file or directory"),
    ):
        # xdist itself would start such a node again and again
        done = run("--tx", "popen", "--tx", f"popen//python={python}", "--max-worker-restart=2", "test_it.py")
        assert done.result.ret == 0, done.output
        assert done.once() == {"passed": 3}
        assert "node left out: this machine: " in done.output
        assert why in done.output
    assert run("--tx", f"popen//python={sys.executable}", "test_it.py").once() == {"passed": 3}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("popen//chdri=/copy", "--tx popen//chdri=/copy: unknown key 'chdri' (did you mean 'chdir'?)"),
        ("banana", "--tx banana: what kind of node is it? Give popen, ssh=HOST or socket=HOST:PORT"),
    ],
)
def test_a_spec_with_a_slip_is_refused(run: Runner, spec: str, text: str) -> None:
    run.suite(test_it=PLAIN)
    done = run("--tx", "popen", "--tx", spec, "test_it.py", reports=False)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR, done.output
    assert text in done.result.stderr.str()


def test_a_file_that_is_nowhere_ends_the_run_as_having_no_tests(run: Runner) -> None:
    run.suite(test_it=PLAIN)
    for wrong in ("test_nowhere.py", "test_it.py::test_nowhere"):
        done = run("-n2", wrong, reports=False)
        assert done.result.ret == pytest.ExitCode.NO_TESTS_COLLECTED, done.output
        assert done.output.count("ran nothing: a file or test that was asked for is not there") == 2
        assert "INTERNALERROR" not in done.output


@pytest.mark.browser
@pytest.mark.parametrize("elsewhere", [False, True], ids=["local nodes", "a copy"])
def test_a_flaky_test_is_run_again_in_its_warm_session(run: Runner, copy: Path, elsewhere: bool) -> None:
    """pytest-rerunfailures runs it again on the same node, and each outcome is in the history once."""
    run.suite(
        test_flaky="""
        import pathlib
        import numpy as np
        import pytest

        TRIED = pathlib.Path(__file__).with_name("tried")

        @pytest.mark.flaky(reruns=1)
        @pytest.mark.model("affine.onnx", browsers=["headless-shell"], backends=["wasm"])
        def test_flaky(model):
            assert model({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1
            tried = TRIED.exists()
            TRIED.touch()
            assert tried
            assert model.warm
        """
    )
    here = run.pytester.path
    (here / "affine.onnx").write_bytes(make.affine())
    if elsewhere:
        shutil.copytree(here, copy)
    done = run(*(("--tx", f"popen//chdir={copy}") if elsewhere else ("-n2",)), "test_flaky.py")
    assert done.terminal == {"passed": 1, "rerun": 1}, done.output
    assert (copy if elsewhere else here).joinpath("tried").exists()
    with duckdb.connect(str(here / ".browserpool" / "history.duckdb"), read_only=True) as con:
        assert con.execute("SELECT nodeid, outcome FROM tests").fetchall() == [
            ("test_flaky.py::test_flaky", "passed")
        ]
        runs = con.execute("SELECT ok FROM operations_log WHERE kind = 'run'").fetchall()
    assert runs == [(True,), (True,)]
