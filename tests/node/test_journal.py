"""The journal of a node: what it tells makes an equal state elsewhere, whatever order things end in."""

from __future__ import annotations

import pytest

from pytest_browserpool.node.journal import ENDED_ROWS, Journal, Operation
from pytest_browserpool.recovery.rows import StateError
from pytest_browserpool.recovery.state import State
from pytest_browserpool.recovery.telling import lines, under_way


@pytest.fixture
def told():
    return []


@pytest.fixture
def journal(told):
    return Journal(told.append)


def follow(told) -> State:
    state = State()
    for message in told:
        assert message["kind"] == "journal"
        state.apply(message["entry"])
    return state


def test_a_recovered_call_counts_once_and_the_controller_can_tell_its_steps(journal, told):
    journal.launched("w0-1", "chromium")
    journal.session_made("w0-1", "abc", "wasm")
    call = Operation("run")
    journal.met_fault(call, "w0-1")
    journal.closed("w0-1", "crashed")
    journal.tried_again(call, degraded=False)
    assert under_way(follow(told)) == "a run in its 2nd attempt"
    journal.launched("w0-2", "chromium")
    journal.ended(call, ok=True)
    journal.settle()
    state = follow(told)
    assert state.to_plain() == journal.state.to_plain()
    assert (state.totals.done, state.totals.retried, state.totals.attempts, call.attempts) == (1, 1, 2, 2)
    assert under_way(state) == "w0-2 running"
    words = [line for message in told for line in lines(message["entry"]["changes"])]
    assert words[:4] == [
        "chromium w0-1: ready",
        "model abc on wasm in w0-1: loaded",
        f"run {call.id[:12]}: running in w0-1, 1st attempt",
        "chromium w0-1: gone: crashed",
    ]
    assert f"run {call.id[:12]}: done, 2nd attempt" in words


def test_calls_without_a_fault_are_one_commit_at_the_end_of_the_test(journal, told):
    for i in range(1000):
        journal.ended(Operation("run"), ok=i % 10 != 0)
    assert told == []
    journal.settle()
    assert len(told) == 1
    assert (follow(told).totals.done, follow(told).totals.failed) == (900, 100)
    journal.settle()
    assert len(told) == 1


def test_a_session_of_other_options_does_not_count_as_another_model(journal, told):
    journal.launched("b", "firefox")
    for _ in range(2):
        journal.session_made("b", "m", "webgpu")
    journal.session_gone("b", "m", "webgpu")
    assert [m.status for m in journal.state.models.values()] == ["loaded"]
    journal.session_gone("b", "m", "webgpu")
    assert [m.status for m in journal.state.models.values()] == ["released"]
    journal.session_made("b", "m", "webgpu")
    assert [m.status for m in follow(told).models.values()] == ["loaded"]


def test_what_ends_late_or_twice_breaks_nothing(journal):
    journal.closed("never-ready", "launch failed")
    journal.session_gone("nowhere", "m", "wasm")
    load = Operation("load")
    journal.met_fault(load, "gone-already")
    journal.met_fault(load, "gone-already")
    journal.ended(load, ok=True)
    journal.tried_again(load, degraded=False)  # done as a load; its first use fails
    journal.ended(load, ok=True)
    assert journal.state.totals.done == 1


def test_a_long_run_forgets_what_has_ended(journal, told):
    for i in range(ENDED_ROWS * 3):
        journal.launched(str(i), "chromium")
        journal.closed(str(i), "recycled")
        journal.settle()
    assert len(journal.state.browsers) <= ENDED_ROWS + 1
    assert follow(told).to_plain() == journal.state.to_plain()


def test_an_entry_that_was_lost_is_noticed(journal, told):
    journal.launched("a", "chromium")
    journal.launched("b", "chromium")
    with pytest.raises(StateError, match="journal entry 2 after 0"):
        follow(told[1:])
