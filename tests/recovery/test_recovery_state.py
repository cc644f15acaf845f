"""The transactional state of a node, by example and against plain dictionaries."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_browserpool.recovery.rows import MOVES, StateError, Totals
from pytest_browserpool.recovery.state import State
from pytest_browserpool.recovery.transaction import Transaction


def with_a_browser() -> State:
    state = State()
    with state.transaction(1.0) as t:
        t.launching("c1", "chromium")
        t.ready("c1")
    return state


def test_nothing_is_seen_before_the_commit_and_all_of_it_after() -> None:
    state = with_a_browser()
    with state.transaction(2.0) as t:
        key = t.loading("c1", "sha", "wasm")
        t.loaded(key)
        assert state.models == {}
    assert state.models[key].status == "loaded"
    assert len(state.drain()) == 2


def test_an_exception_rolls_back_and_goes_on_its_way() -> None:
    state = with_a_browser()
    before = state.to_plain()

    def fail() -> None:
        with state.transaction(2.0) as t:
            t.gone("c1", "killed")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state.to_plain() == before
    with state.transaction(2.0) as t:
        t.retiring("c1", "old")
    assert state.browsers["c1"].status == "retiring"


def test_nested_transactions_are_refused_and_the_outer_one_is_unharmed() -> None:
    state = with_a_browser()
    with state.transaction(2.0) as t:
        t.retiring("c1", "old")
        with pytest.raises(StateError, match="do not nest"):
            state.begin(2.0)
    assert state.browsers["c1"].status == "retiring"


def test_an_operation_that_was_retried_counts_once() -> None:
    state = with_a_browser()
    with state.transaction(2.0) as t:
        t.started("op", "run", "c1")
    for at in (3.0, 4.0):
        with state.transaction(at) as t:
            t.tried_again("op", "c1", degraded=at == 4.0)
    with state.transaction(5.0) as t:
        t.finished("op", ok=True)
    assert state.totals == Totals(done=1, failed=0, retried=1, degraded=1, attempts=3)
    with pytest.raises(StateError, match="done → failed"), state.transaction(6.0) as t:
        t.finished("op", ok=False)
    assert state.totals.done + state.totals.failed == 1


def test_one_further_attempt_is_a_retry_and_a_first_one_is_none() -> None:
    state = with_a_browser()
    with state.transaction(2.0) as t:
        for operation in ("once", "twice"):
            t.started(operation, "run", "c1")
        t.tried_again("twice", "c1")
        for operation in ("once", "twice"):
            t.finished(operation, ok=True)
    assert state.totals == Totals(done=2, retried=1, attempts=3)


def test_an_operation_without_faults_counts_without_a_row() -> None:
    state = with_a_browser()
    with state.transaction(2.0) as t:
        t.ran("op1")
        t.ran("op2", ok=False)
        t.started("op3", "run", "c1")
        with pytest.raises(StateError, match="say finished"):
            t.ran("op3")
    assert state.totals == Totals(done=1, failed=1, attempts=2)


def test_a_browser_takes_its_models_with_it_and_unseats_its_operations() -> None:
    state = with_a_browser()
    with state.transaction(2.0) as t:
        key = t.loading("c1", "sha", "wasm")
        t.started("op", "run", "c1")
    with state.transaction(3.0) as t:
        t.gone("c1", "killed")
    assert state.models[key].status == "released"
    assert (state.operations["op"].status, state.operations["op"].instance) == ("running", "")
    with state.transaction(4.0) as t:
        t.launching("c2", "chromium")
        t.tried_again("op", "c2")
    assert state.operations["op"].attempts == 2


@pytest.mark.parametrize("instance", ["c2", "nobody"])
def test_a_commit_that_would_break_a_rule_is_refused_as_a_whole(instance: str) -> None:
    state = with_a_browser()
    before = state.to_plain()
    t = state.begin(2.0)
    t.retiring("c1", "old")
    t.launching("c2", "firefox")
    t.loading(instance, "sha", "wasm")
    with pytest.raises(StateError, match="in a browser that is not ready"):
        t.commit()
    assert state.to_plain() == before
    with pytest.raises(StateError, match="has ended"):
        t.commit()


def test_the_journal_is_plain_and_an_entry_out_of_order_is_refused() -> None:
    state = with_a_browser()
    with state.transaction(2.0) as t:
        t.retiring("c1", "old")
    first, second = json.loads(json.dumps(state.drain()))
    replica = State()
    with pytest.raises(StateError, match="entry 2 after 0"):
        replica.apply(second)
    replica.apply(first)
    with pytest.raises(StateError, match="entry 1 after 1"):
        replica.apply(first)
    replica.apply(second)
    assert replica.to_plain() == state.to_plain()


def test_an_empty_transaction_leaves_no_entry() -> None:
    state = with_a_browser()
    state.drain()
    with state.transaction(9.0):
        pass
    assert state.drain() == []


def test_forgetting_keeps_the_state_small_and_the_totals_whole() -> None:
    state = with_a_browser()
    for n in range(300):
        with state.transaction(2.0) as t:
            t.started(f"op{n}", "run", "c1")
        with state.transaction(2.0) as t:
            t.finished(f"op{n}", ok=n % 3 > 0)
            t.forget_ended()
    assert state.operations == {}
    assert (state.totals.done, state.totals.failed) == (200, 100)


INSTANCES, MODELS, OPERATIONS = ("a", "b"), ("m", "n"), ("x", "y", "z")


class Transactions(RuleBasedStateMachine):
    """Against a plain copy: what was begun is kept apart and taken over, or thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.replica = State(), State()
        self.open: Transaction | None = None
        self.at = 0.0
        empty: dict[str, Any] = {"browsers": {}, "models": {}, "operations": {}, "ended": {}}
        self.model, self.draft = empty, copy.deepcopy(empty)

    @rule(seconds=st.floats(0, 10))
    def begin(self, seconds: float) -> None:
        self.at += seconds
        if self.open is None:
            self.open, self.draft = self.state.begin(self.at), copy.deepcopy(self.model)
        else:
            with pytest.raises(StateError):
                self.state.begin(self.at)

    def attempt(self, allowed: bool, change: Any, *arguments: Any, **keywords: Any) -> bool:
        if allowed:
            change(*arguments, **keywords)
        else:
            with pytest.raises(StateError):
                change(*arguments, **keywords)
        return allowed

    @precondition(lambda self: self.open)
    @rule(instance=st.sampled_from(INSTANCES), to=st.sampled_from(["launching", "ready", "retiring", "gone"]))
    def browser(self, instance: str, to: str) -> None:
        assert self.open
        known = self.draft["browsers"]
        extra = {"launching": ("chromium",), "ready": ()}.get(to, ("why",))
        if self.attempt(
            to in MOVES["browsers"][known.get(instance)], getattr(self.open, to), instance, *extra
        ):
            known[instance] = to
            if to == "gone":
                for key in self.draft["models"]:
                    if key[0] == instance:
                        self.draft["models"][key] = "released"
                for row in self.draft["operations"].values():
                    if row["instance"] == instance and row["status"] == "running":
                        row["instance"] = ""

    @precondition(lambda self: self.open)
    @rule(
        instance=st.sampled_from(INSTANCES),
        model=st.sampled_from(MODELS),
        to=st.sampled_from(["loading", "loaded", "released"]),
    )
    def session(self, instance: str, model: str, to: str) -> None:
        assert self.open
        known = self.draft["models"]
        allowed = to in MOVES["models"][known.get((instance, model))]
        if to == "loading":
            allowed = self.attempt(allowed, self.open.loading, instance, model, "wasm")
        else:
            allowed = self.attempt(allowed, getattr(self.open, to), f"{instance}|wasm|{model}")
        if allowed:
            known[instance, model] = to

    @precondition(lambda self: self.open)
    @rule(operation=st.sampled_from(OPERATIONS), instance=st.sampled_from(INSTANCES), again=st.booleans())
    def run(self, operation: str, instance: str, again: bool) -> None:
        assert self.open
        row = self.draft["operations"].get(operation)
        if again:
            running = row is not None and row["status"] == "running"
            if self.attempt(running, self.open.tried_again, operation, instance):
                row |= {"instance": instance, "attempts": row["attempts"] + 1}
            return
        if row is not None and row["status"] == "running":
            return
        if self.attempt(row is None, self.open.started, operation, "run", instance):
            row = {"status": "running", "instance": instance, "attempts": 1}
            self.draft["operations"][operation] = row

    @precondition(lambda self: self.open)
    @rule(operation=st.sampled_from(OPERATIONS), ok=st.booleans())
    def finish(self, operation: str, ok: bool) -> None:
        assert self.open
        row = self.draft["operations"].get(operation)
        if self.attempt(row is not None and row["status"] == "running", self.open.finished, operation, ok=ok):
            row |= {"status": "done" if ok else "failed", "instance": ""}
            self.draft["ended"][operation] = ok

    @precondition(lambda self: self.open)
    @rule()
    def commit(self) -> None:
        assert self.open
        browsers = self.draft["browsers"]
        sound = all(
            status == "released" or browsers.get(instance) in ("ready", "retiring")
            for (instance, _), status in self.draft["models"].items()
        ) and all(
            row["status"] != "running"
            or not row["instance"]
            or browsers.get(row["instance"], "gone") != "gone"
            for row in self.draft["operations"].values()
        )
        if self.attempt(sound, self.open.commit):
            self.model = copy.deepcopy(self.draft)
        self.open = None

    @precondition(lambda self: self.open)
    @rule()
    def rollback(self) -> None:
        assert self.open
        self.open.rollback()
        self.open = None

    @rule()
    def replicate(self) -> None:
        if self.open is None:
            for entry in json.loads(json.dumps(self.state.drain())):
                self.replica.apply(entry)
            assert self.replica.to_plain() == self.state.to_plain()

    @invariant()
    def only_what_was_committed_is_seen(self) -> None:
        assert {k: b.status for k, b in self.state.browsers.items()} == self.model["browsers"]
        sessions = {(m.instance, m.model): m.status for m in self.state.models.values()}
        assert sessions == self.model["models"]
        operations = {
            k: {"status": o.status, "instance": o.instance, "attempts": o.attempts}
            for k, o in self.state.operations.items()
        }
        assert operations == self.model["operations"]

    @invariant()
    def each_operation_counts_once(self) -> None:
        ended = self.model["ended"]
        totals = self.state.totals
        assert (totals.done, totals.failed) == (sum(ended.values()), len(ended) - sum(ended.values()))
        attempts = [self.model["operations"][o]["attempts"] for o in ended]
        assert (totals.attempts, totals.retried) == (sum(attempts), sum(a > 1 for a in attempts))


TestTransactions = Transactions.TestCase
TestTransactions.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
