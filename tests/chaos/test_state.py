"""State that stays in the page: a fault in the middle of a sequence leaves every answer as it is, bit for bit."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import onnx_models as make
import pytest
from chaos_support import nothing_astray, send, the_fault

from pytest_browserpool.errors import BrowserCrashed
from pytest_browserpool.fixtures import Model
from pytest_browserpool.values import ModelNeeds

STEPS = 14
EVERY = 4
"""A checkpoint every four steps, so that faults come before the first, right after one, and between two."""
SEED = np.random.default_rng(12)
X = SEED.standard_normal((STEPS, 8, 32)).astype(np.float32)
ROWS = SEED.standard_normal((STEPS, 1, 8)).astype(np.float32)
full = pytest.mark.full


def answers(session, xs, at=(), act=lambda: None):
    """Of all steps, as bytes; ``act`` before the steps ``at``."""
    found = []
    for i, x in enumerate(xs):
        if i in at:
            act()
        found.append(session({"x": x})["y"].tobytes())
    return found


@pytest.mark.parametrize(
    ("kind", "strikes", "replayed"),
    [
        ("chromium", {2, 8}, 2 + 4),  # before the first checkpoint, and when one was just taken
        ("firefox", {8}, 4),
        pytest.param("firefox", {2, 8}, 2 + 4, marks=full),
        pytest.param("headless-shell", {2, 8}, 2 + 4, marks=full),
    ],
)
def test_a_killed_browser_leaves_a_sequence_as_it_was(bench, kind, strikes, replayed, ledger):
    model = bench.load(make.recurrent(), kind)
    with model.session(state={"next": "state"}, checkpoint_every=EVERY) as session:
        undisturbed = answers(session, X)
        state = session.state()["state"]
        session.reset()
        began = time.monotonic()
        killed = answers(session, X, strikes, lambda: send(bench, kind, "", signal.SIGKILL))
        seconds = (time.monotonic() - began) / len(strikes)
        assert killed == undisturbed
        assert session.state()["state"].tobytes() == state.tobytes()
        assert session.step == STEPS
        assert session.replayed == replayed
    assert model.recoveries == len(strikes)
    assert len(set(undisturbed)) == STEPS
    for fault in bench.rows("faults"):
        assert (fault["kind"], fault["outcome"]) == ("browser_crashed", "recovered")
        assert fault["strategy"] == "coordinated"
    nothing_astray(bench)
    ledger.add("browser SIGKILL, in a sequence with state", kind, "recovered", seconds)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("headless-shell", "chromium"),
        pytest.param("chromium", "firefox", marks=full),
        pytest.param("firefox", "headless-shell", marks=full),
    ],
)
def test_a_hot_standby_of_another_kind_goes_on_with_the_same_bits(fresh_bench, kind, other, ledger):
    """A cache that grows with each step is rebuilt in the other browser: it has the same size and the same bits."""
    bench = fresh_bench(redundancy=2)
    needs = ModelNeeds(browsers=(f"={kind}", f"={other}"), backends=("wasm",))
    model = Model(bench.node, bench.node.load(needs, make.growing(), None))
    session = model.session(
        {"present": "past"}, initial={"past": np.zeros((0, 8), np.float32)}, checkpoint_every=EVERY
    )
    undisturbed = answers(session, ROWS)
    assert session.state()["past"].tobytes() == ROWS.tobytes()
    session.reset()
    first = model.browser.name
    assert first == kind
    standby = model._resident.standby
    assert bench.node.call(lambda: standby.ready(60), 60), standby.reason
    began = time.monotonic()
    assert answers(session, ROWS, {6}, lambda: send(bench, first, "", signal.SIGKILL)) == undisturbed
    ledger.add("browser SIGKILL, in a sequence, to a standby", first, "recovered", time.monotonic() - began)
    assert model.browser.name != first
    (fault,) = bench.rows("faults")
    assert [a["action"] for a in json.loads(fault["attempts"])] == ["begin", "use_standby"]
    assert session.replayed == 2


def test_a_state_that_does_not_come_back_bit_for_bit_fails_with_its_history(bench, request):
    """The model adds chance to its state: no browser gives the steps again that the test has seen."""
    model = bench.load(make.noisy(), "chromium")
    session = model.session({"next": "state"})
    one = {"x": np.ones((2, 2), np.float32)}
    session(one)
    send(bench, "chromium", "", signal.SIGKILL)
    with pytest.raises(
        BrowserCrashed, match=r"tried, until[\s\S]*step 0 gave other bits in chromium on wasm"
    ):
        session(one)
    assert the_fault(bench, request.node.nodeid)["outcome"] == "failed"
    session.reset()
    session(one)
    assert session.step == 1


@full
def test_a_model_without_state_can_be_recovered_in_coordination_too(bench, request):
    model = bench.load(make.affine(4.0), "headless-shell", recovery="coordinated")
    one = {"x": np.ones((4, 4), np.float32)}
    undisturbed = model(one)["y"]
    send(bench, "headless-shell", "", signal.SIGKILL)
    assert model(one)["y"].tobytes() == undisturbed.tobytes()
    fault = the_fault(bench, request.node.nodeid)
    assert (fault["strategy"], fault["outcome"]) == ("coordinated", "recovered")
