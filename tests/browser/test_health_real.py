"""A browser that loses its GPU device a second time is replaced within the call, and the record says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from bench_support import Bench, here
from chaos_support import X, dense
from waiting import until

from pytest_browserpool.fixtures import BrowserPool, Model

LOSE = "void window.browserpool.models.watched.destroy()"


def test_the_second_lost_device_replaces_the_browser(
    fresh_bench: Callable[..., Bench], request: pytest.FixtureRequest
) -> None:
    if "headless-shell" not in here():
        pytest.fail("headless-shell is not installed: run `browserpool install`")
    bench = fresh_bench()
    model = bench.load(dense(), "headless-shell", "webgpu")
    pool = BrowserPool(bench.node, request)
    expected = model({"x": X})["y"]
    seen = [of(model)]
    assert list(pool.stats()["health"].values()) == [100]
    for _ in range(2):
        page = bench.page_of(model)
        bench.evaluate(model, LOSE)
        until(lambda page=page: page.lost is not None, "the device was not lost")
        np.testing.assert_allclose(model({"x": X})["y"], expected, atol=1e-5)
        seen.append(of(model))
    assert seen[0] == seen[1] != seen[2], "the first loss costs a page, the second the browser"
    assert model.recoveries == 2
    assert list(pool.stats()["health"].values()) == [100], "the new one has done nothing wrong"
    until(lambda: any(row["close_reason"] for row in bench.rows("browsers")), "no end on the record")
    (closed,) = [row for row in bench.rows("browsers") if row["close_reason"]]
    assert closed["close_reason"].startswith("unhealthy: ")
    assert "lost its GPU device 2 times" in closed["close_reason"]
    faults = bench.rows("faults")
    assert [(f["kind"], f["outcome"]) for f in faults] == [("device_lost", "recovered")] * 2


def of(model: Model) -> str:
    loaded = model._resident.loaded
    assert loaded is not None
    return str(loaded.instance.identity)
