"""A recovery strategy from a hook, in a real run: it is asked, refused where a rule says so, and on the record."""

from __future__ import annotations

import json

import duckdb
import onnx_models as make
import pytest
from acceptance_support import Runner

CONFTEST = """
    from pytest_browserpool.recovery.signals import Step

    class Stubborn:
        name, coordinated = "stubborn", False

        def suggest(self, situation):
            yield Step.RETRY       # forbidden: the process is gone
            yield Step.RESTART

    def pytest_browserpool_recovery_strategies():
        return [Stubborn()]
"""
SUITE = """
    import contextlib
    import numpy as np
    import psutil
    import pytest

    @pytest.mark.model("affine.onnx", browsers=["chromium"], backends=["wasm"], recovery="stubborn")
    def test_goes_on(model):
        x = {"x": np.ones((4, 4), np.float32)}
        before = model(x)["y"]
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that is gone with the others
                if "chromium" in " ".join(process.cmdline()[:1]):
                    process.kill()
        assert model(x)["y"].tobytes() == before.tobytes()
        assert model.recoveries == 1
"""


def test_a_strategy_of_ones_own_recovers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Runner(pytester, monkeypatch)
    pytester.makeconftest(CONFTEST)
    (pytester.path / "affine.onnx").write_bytes(make.affine())
    run.suite(test_own=SUITE)
    done = run("-n", "1", "--browserpool-recovery=stubborn")
    assert done.once() == {"passed": 1}, done.output
    with duckdb.connect(str(pytester.path / ".browserpool" / "history.duckdb"), read_only=True) as history:
        ((strategy, outcome, attempts),) = history.sql(
            "select strategy, outcome, attempts from faults"
        ).fetchall()
    assert (strategy, outcome) == ("stubborn", "recovered")
    begin, restart = json.loads(attempts)
    assert (begin["action"], restart["action"]) == ("begin", "restart_browser")
    assert restart["refused"][0].startswith("retry: forbidden after"), "its page is gone, or all of it"
