"""Another version of onnxruntime-web, really run; and what is refused before anything starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import onnx_models as make
import pytest
from acceptance_support import Runner
from artefact_support import other_runtime

from pytest_browserpool.artefacts import pins, runtime

SUITE = """
    import numpy as np
    import pytest
    from pytest_browserpool.worker import node_for

    @pytest.mark.model("affine.onnx", backends=["wasm"])
    def test_runs_on_it(model, request):
        assert model({"x": np.full((4, 4), 3, np.float32)})["y"].tolist() == [[7.0] * 4] * 4
        assert model.placement.keys() == {"wasm"}
        pages = [p for i in node_for(request.node).pool.instances for p in i.pages.values()]
        assert [p.runtime for p in pages] == ["onnxruntime-web 1.29.0 (wasm)"]
"""
HOOK = """
    from pathlib import Path

    def pytest_browserpool_runtime(settings):
        return "ort" if (Path(settings.rootdir) / "ort").exists() else None
"""
SHELL = "--browserpool-browsers=headless-shell"


@pytest.fixture
def suite(run: Runner) -> Path:
    """A project with one test of one model."""
    directory = run.pytester.path
    (directory / "affine.onnx").write_bytes(make.affine())
    run.suite(test_own=SUITE)
    return directory


def small_build(directory: Path, content: str) -> None:
    """What passes for a build until a page loads it."""
    directory.mkdir()
    for name in runtime.BUNDLES:
        (directory / name).write_text(f"/* ONNX Runtime Web v1.29.0 */ {content}")
    (directory / "ort-wasm.wasm").write_bytes(b"\0asm")


def on_record(directory: Path) -> list[tuple[str, str]]:
    """Of each run: its onnxruntime-web, and the browsers that were launched."""
    with duckdb.connect(str(directory / ".browserpool" / "history.duckdb"), read_only=True) as history:
        return history.sql(
            "SELECT runtime, coalesce(string_agg(DISTINCT name), '') "
            "FROM runs LEFT JOIN browsers USING (run_id) GROUP BY ALL"
        ).fetchall()


@pytest.mark.browser
@pytest.mark.skipif(not pins.shell_supported(), reason=pins.shell_unsupported())
def test_another_version_runs_and_is_on_the_record(run: Runner, suite: Path) -> None:
    (suite / "ort").symlink_to(other_runtime())
    run.pytester.makeini("[pytest]\nbrowserpool_runtime = ort\n")
    done = run(SHELL)
    assert done.once() == {"passed": 1}, done.output
    found = runtime.examine(other_runtime(), "")
    assert on_record(suite) == [(f"1.29.0 (own, {found.sha256[:8]})", "headless-shell")]
    assert f"onnxruntime-web 1.29.0 (own, {found.sha256[:8]})" in (suite / "report.html").read_text()
    assert f"onnxruntime-web {found.label} from " in done.output


def test_a_node_with_another_build_says_so_and_runs_no_model(run: Runner, suite: Path) -> None:
    run.pytester.makeconftest(HOOK)
    copy = suite / "node"
    copy.mkdir()
    for path in (*suite.glob("*.py"), suite / "affine.onnx", suite / "tox.ini"):
        shutil.copy(path, copy)
    small_build(suite / "ort", "one")
    small_build(copy / "ort", "two")
    done = run("--tx", f"popen//chdir={copy}", "test_own.py")
    assert done.once() == {"failure": 1}, done.output
    assert "the controller's is 1.29.0 (own, " in done.output
    assert "return None on this node: the controller then sends its own" in done.output
    assert [launched for _, launched in on_record(suite)] == [""]


@pytest.mark.parametrize("option", [True, False])
def test_a_directory_that_is_no_build_ends_the_run_before_anything_starts(
    run: Runner, suite: Path, option: bool
) -> None:
    small_build(suite / "ort", "")
    (suite / "ort" / "ort.webgpu.bundle.min.mjs").unlink()
    if not option:
        run.pytester.makeconftest(HOOK)
    done = run(*(["--browserpool-runtime=ort"] if option else []), reports=False)
    assert done.result.ret == pytest.ExitCode.USAGE_ERROR
    said = done.result.stderr.str()
    assert f"{suite / 'ort'} has no ort.webgpu.bundle.min.mjs, which the pages load" in said
    assert ("where: --browserpool-runtime" if option else "where: pytest_browserpool_runtime") in said
    assert "remedy: give the directory of the files that the npm package onnxruntime-web" in said
    assert not (suite / ".browserpool").exists(), "no run began"
