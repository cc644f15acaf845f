"""What ``browserpool apply`` sets is what the next run does, and ``--undo`` takes it back: on real browsers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import duckdb
import history_seed
import onnx_models
import pytest
from acceptance_support import Reported, Runner
from click.testing import CliRunner, Result

from pytest_browserpool.cli import cli

SUITE = """
    import numpy as np
    import pytest

    @pytest.mark.model("sample.onnx", id="sample")
    def test_free(model):
        x = np.ones((4, 4), np.float32)
        for _ in range(3):
            assert (model({"x": x})["y"] == 3).all()
"""


def where_it_ran(done: Reported) -> tuple[str, str]:
    """(browser, backend) of the last run's test, as the history has it."""
    with duckdb.connect(str(done.directory / ".browserpool" / "history.duckdb"), read_only=True) as con:
        row = con.execute(
            "SELECT t.browser, t.backend FROM tests AS t JOIN runs AS r USING (run_id) ORDER BY r.started_at DESC LIMIT 1"
        ).fetchone()
    assert row is not None
    return str(row[0]), str(row[1])


def browserpool(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.browser
def test_an_applied_preference_is_used_and_can_be_undone(run: Runner) -> None:
    here = run.pytester.path
    db = str(here / ".browserpool" / "history.duckdb")
    (here / "sample.onnx").write_bytes(onnx_models.affine())
    run.suite(test_x=SUITE)
    chance = random.Random(7)
    history_seed.seed(
        Path(db),
        [
            history_seed.run_rows(n, {"chromium/wasm": 60.0, "firefox/wasm": 20.0}, chance=chance)
            for n in range(7)
        ],
    )
    browsers = "--browserpool-browsers=chromium,firefox"
    before = run(browsers, reports=False)
    assert where_it_ran(before) == ("chromium", "wasm"), before.output

    told = json.loads(browserpool("apply", "--db", db, "--json").output)
    assert [change["id"] for change in told["applied"]] == ["prefer/sample"]
    after = run(browsers, reports=False)
    assert where_it_ran(after) == ("firefox", "wasm"), after.output
    assert "as applied: run sample on firefox/wasm" in after.output
    found = json.loads(browserpool("analyze", "--db", db, "--json").output)
    (came,) = found["came"]
    assert came["runs"] == 1
    assert came["saved"]["blocks"] == 1
    assert "run sample on firefox/wasm: expected to save" in after.output
    (row,) = json.loads(browserpool("history", "applied", "--db", db, "--json").output)
    assert (row["id"], row["runs"], row["verdict"]) == ("prefer/sample", 1, "too early to say")

    assert "no longer set: run sample on firefox/wasm" in browserpool("apply", "--undo", "--db", db).output
    again = run(browsers, reports=False)
    assert where_it_ran(again) == ("chromium", "wasm"), again.output
