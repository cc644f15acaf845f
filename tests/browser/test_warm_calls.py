"""The second call of a model takes a shorter way than the first: what goes wrong there must end no differently."""

from __future__ import annotations

import dataclasses
import signal
import time

import numpy as np
import onnx_models as make
import pytest

from pytest_browserpool.errors import InputError, PageHung
from pytest_browserpool.node import warm

FOREVER = 1 << 62


@pytest.fixture
def bench(shared_bench):
    shared_bench.node.begin_test("test_warm_calls.py::test")
    yield shared_bench
    shared_bench.node.end_test()


def doubled(model, rounds):
    return model({"x": np.ones(1, np.float32), "rounds": np.array(rounds, np.int64)})["y"].item()


def test_a_model_error_is_the_tests_own_and_leaves_the_page_warm(bench, kind):
    model = bench.load(make.chosen(), kind)
    page = bench.page_of(model)
    assert model({"index": np.array(2, np.int64)})["y"].item() == 2
    with pytest.raises(InputError, match="out of data bounds"):
        model({"index": np.array(9, np.int64)})
    assert model({"index": np.array(3, np.int64)})["y"].item() == 3
    assert bench.page_of(model) is page
    assert page.lost is None
    assert not page._ahead


def test_a_call_that_never_ends_fails_in_time_and_the_next_one_runs(bench, kind):
    model = bench.load(make.repeated(), kind, timeout=60)
    assert doubled(model, 3) == 8
    page, needs = bench.page_of(model), model._resident.needs
    model._resident.needs = dataclasses.replace(
        needs, timeout=4.0
    )  # for the call, not for the loads around it
    started = time.monotonic()
    with pytest.raises(PageHung, match="did not answer 'run' within 4 s"):
        doubled(model, FOREVER)
    assert time.monotonic() - started < 4 + 12  # the page's end, its browser asked, perhaps replaced
    assert page.lost is not None
    model._resident.needs = needs
    assert doubled(model, 4) == 16
    assert bench.page_of(model) is not page


def test_a_call_that_is_given_up_costs_its_page_only(bench):
    class GivenUp(BaseException):
        """Like Ctrl-C, or the limit that another plugin sets for the test."""

    def give_up(*_):
        raise GivenUp

    model = bench.load(make.repeated(), "chromium", timeout=60)
    assert doubled(model, 3) == 8
    page, process = bench.page_of(model), model._resident.loaded.instance.process
    before = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(GivenUp):
            doubled(model, FOREVER)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    bench.node.end_test(failed=True)
    bench.node.begin_test("test_warm_calls.py::next")
    model = bench.load(make.repeated(), "chromium", timeout=60)
    assert doubled(model, 5) == 32
    assert page.lost is not None
    assert model._resident.loaded.instance.process is process


@pytest.mark.parametrize("size", [warm.LIMIT // 4 - 1, warm.LIMIT // 4, warm.LIMIT // 4 + 1, 3 << 20])
def test_the_ways_of_small_and_large_inputs_give_the_same(bench, size):
    model = bench.load(make.identity(), "chromium")
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    for _ in range(2):
        assert np.array_equal(model({"x": x})["y"], x)
