"""Sessions with state on real browsers, as long as nothing fails. What faults do to them: tests/chaos/test_state.py."""

from __future__ import annotations

import numpy as np
import onnx_models as make
import pytest

from pytest_browserpool.errors import InputError

X = np.random.default_rng(2).standard_normal((5, 8, 32)).astype(np.float32)


def test_a_session_gives_what_carrying_the_state_by_hand_gives(bench, kind):
    model = bench.load(make.recurrent(), kind)
    state = np.zeros((8, 32), np.float32)
    session = model.session({"next": "state"}, checkpoint_every=2)
    for step, x in enumerate(X):
        by_hand = model({"x": x, "state": state})
        state = by_hand["next"]
        answer = session({"x": x})
        assert set(answer) == {"y"}
        assert answer["y"].tobytes() == by_hand["y"].tobytes()
        assert session.step == step + 1
    assert session.state()["state"].tobytes() == state.tobytes()
    assert model.recoveries == 0
    assert len(model.timings) == 2 * len(X)


def test_two_sessions_of_one_model_do_not_know_each_other_and_leave_nothing(bench):
    model = bench.load(make.growing(), "chromium")
    empty = {"past": np.zeros((0, 8), np.float32)}
    one, other = (model.session({"present": "past"}, initial=empty) for _ in range(2))
    for i in range(3):
        one({"x": np.full((1, 8), i, np.float32)})
    other({"x": np.full((1, 8), 9, np.float32)})
    assert one.state()["past"][:, 0].tolist() == [0, 1, 2]
    assert other.state()["past"][:, 0].tolist() == [9]
    one.reset({"past": np.ones((2, 8), np.float32)})
    one({"x": np.zeros((1, 8), np.float32)})
    assert one.state()["past"][:, 0].tolist() == [1, 1, 0]
    one.close()
    with pytest.raises(InputError, match="the session is closed"):
        one({"x": np.zeros((1, 8), np.float32)})
    assert bench.evaluate(model, "window.browserpool.models.states.all.size") == 1
    bench.node.end_test()
    bench.node.begin_test("next")
    assert bench.evaluate(model, "window.browserpool.models.states.all.size") == 0


def test_what_fails_leaves_the_state_where_it_was(bench):
    model = bench.load(make.growing(), "chromium")
    session = model.session({"present": "past"}, initial={"past": np.zeros((0, 8), np.float32)})
    session({"x": np.ones((1, 8), np.float32)})
    with pytest.raises(InputError, match="'past' is kept in the browser by this session"):
        session({"x": np.ones((1, 8), np.float32), "past": np.ones((1, 8), np.float32)})
    with pytest.raises(InputError, match="input 'x' is missing"):
        session({})
    wrong = model.session({"present": "past"}, initial={"past": np.zeros((3, 8), np.float32)})
    wrong.reset({"past": np.zeros((0, 8), np.float32)})
    assert wrong.state()["past"].shape == (0, 8)
    assert session.step == 1
    assert session({"x": np.ones((1, 8), np.float32)})["y"] == pytest.approx(16 * np.tanh(1), rel=1e-5)


@pytest.mark.parametrize(
    ("links", "more", "text"),
    [
        ({}, {}, r"give a dict \{\"output name\": \"input name\"\}"),
        ({"presen": "past"}, {}, r"no output 'presen'.*present"),
        ({"present": "pst"}, {}, r"no input 'pst'.*past"),
        ({"present": "past", "y": "past"}, {}, "one input gets two outputs"),
        ({"present": "past"}, {}, r"past: float \[known, 8\] has no known size[\s\S]*initial="),
        ({"present": "past"}, {"initial": {"past": np.zeros((1, 9), np.float32)}}, "axis 1 is 9"),
        (
            {"present": "past"},
            {"initial": {"x": np.zeros((1, 8), np.float32)}},
            "has no known size|no input 'x'",
        ),
        (
            {"present": "past"},
            {"initial": {"past": np.zeros((1, 8), np.float32)}, "checkpoint_every": 0},
            "give 1 or more",
        ),
    ],
)
def test_a_session_that_cannot_be_is_refused_with_the_reason(bench, links, more, text):
    model = bench.load(make.growing(), "chromium")
    with pytest.raises(InputError, match=text):
        model.session(links, **more)
