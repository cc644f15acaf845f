"""What a node tells of its tests arrives whole and in order, in few messages."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.heartbeat import Pulse
from pytest_browserpool.link import SEVERAL, TOLD, packed, parts_of
from pytest_browserpool.told import BRIEF_SECONDS, Teller


class Wire:
    """What arrived, and in how many messages; both channels of a node are read by one thread, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.messages = 0
        self.teller = Teller(self._direct, self._ours)

    def _direct(self, name: str, **fields: Any) -> None:
        self.messages += 1
        self.events.append((name, fields))

    def _ours(self, message: dict[str, Any]) -> None:
        self.messages += 1
        if message["kind"] != TOLD:
            self.events.append(message)
            return
        parts = parts_of(packed(message))
        assert parts, "a message of nothing"
        self.events += parts


BRIEF, LONG = BRIEF_SECONDS / 2, BRIEF_SECONDS * 2


def report(when: str, outcome: str = "passed", duration: float = BRIEF) -> tuple[str, dict[str, Any]]:
    return "testreport", {"data": {"when": when, "outcome": outcome, "duration": duration}}


def of_test(
    *, setup: float = BRIEF, call: str = "passed", teardown: str = "passed"
) -> list[tuple[str, dict[str, Any]]]:
    """As xdist's worker tells it."""
    return [
        ("logstart", {"nodeid": "a"}),
        report("setup", duration=setup),
        report("call", call),
        report("teardown", teardown),
        ("logfinish", {"nodeid": "a"}),
        ("runtest_protocol_complete", {"item_index": 0, "duration": 0.1}),
    ]


@pytest.mark.parametrize(("setup", "messages"), [(BRIEF, 1), (LONG, 2)])
def test_a_test_that_passes_is_told_in_one_message_and_a_long_set_up_in_one_more(
    setup: float, messages: int
) -> None:
    wire = Wire()
    for name, fields in of_test(setup=setup):
        wire.teller.tell(name, **fields)
    assert wire.events == of_test(setup=setup)
    assert wire.messages == messages


def test_what_is_ours_at_the_end_of_a_call_goes_with_its_report() -> None:
    wire = Wire()
    several = {"kind": SEVERAL, "parts": [{"kind": "event"}, {"kind": "record"}]}
    told = of_test(setup=LONG)
    for name, fields in told[:2]:
        wire.teller.tell(name, **fields)
    wire.teller.send(several)
    assert wire.messages == 1
    for name, fields in told[2:]:
        wire.teller.tell(name, **fields)
    assert wire.events == [*told[:2], several, *told[2:]]
    assert wire.messages == 2


def test_that_a_long_set_up_is_done_is_known_while_the_call_runs() -> None:
    wire = Wire()
    for name, fields in of_test(setup=LONG)[:2]:
        wire.teller.tell(name, **fields)
    assert wire.events == of_test(setup=LONG)[:2]


@pytest.mark.parametrize("bad", ["failed", "skipped", "rerun"])
def test_what_did_not_go_well_is_told_at_once(bad: str) -> None:
    wire = Wire()
    for name, fields in of_test(call=bad)[:3]:
        wire.teller.tell(name, **fields)
    assert wire.events == of_test(call=bad)[:3]


NAMES = (
    "logstart",
    "logfinish",
    "warning_recorded",
    "runtest_protocol_complete",
    "unscheduled",
    "internal_error",
    "one of a later xdist",
)
OUTCOMES = ("passed", "failed", "skipped")
events = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.builds(dict, n=st.integers())),
    st.builds(report, st.sampled_from(["setup", "call", "teardown"]), st.sampled_from(OUTCOMES)),
)


ours = st.builds(dict, kind=st.sampled_from(["event", "doing", SEVERAL]), n=st.integers())


@given(st.lists(st.one_of(events, ours, st.just("beat")), max_size=60))
def test_whatever_is_told_keeps_its_order_and_nothing_is_left_at_the_end(told: list[Any]) -> None:
    wire = Wire()
    for one in told:
        if one == "beat":
            wire.teller.flush()
        elif isinstance(one, dict):
            wire.teller.send(one)
        else:
            wire.teller.tell(one[0], **one[1])
    wire.teller.tell("workerfinished", workeroutput={})
    sent = [one for one in told if one != "beat"]
    assert wire.events == [*sent, ("workerfinished", {"workeroutput": {}})]
    assert wire.messages <= len(sent) + 1


def test_a_beat_brings_what_waits() -> None:
    wire, beaten = Wire(), threading.Event()
    seen: list[int] = []

    def beat(message: dict[str, Any]) -> None:
        seen.append(len(wire.events))
        beaten.set()

    pulse = Pulse(beat, 60.0, lambda: None)
    pulse.also(wire.teller.flush)
    for name, fields in of_test()[:3]:
        wire.teller.tell(name, **fields)
    assert not wire.events
    pulse.begin(None)
    assert beaten.wait(10)
    pulse.end()
    assert seen[0] == 3, "before the beat, which may be the node's last word"


def test_what_waits_is_told_between_the_beats_too() -> None:
    wire, beaten, told = Wire(), threading.Event(), threading.Event()

    def tell() -> None:
        wire.teller.flush()
        if wire.events:
            told.set()

    pulse = Pulse(lambda message: beaten.set(), 60.0, lambda: None)
    pulse.also(tell)
    pulse.begin(None)
    assert beaten.wait(10)
    for name, fields in of_test()[:2]:
        wire.teller.tell(name, **fields)
    assert told.wait(10)
    pulse.end()
    assert wire.events == of_test()[:2]
