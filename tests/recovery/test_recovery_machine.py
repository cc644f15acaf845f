"""The recovery machine: its ladder, its refusals, its ends."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from recovery_world import CHROMIUM, FIREFOX, SECOND, SHELL

from pytest_browserpool import errors
from pytest_browserpool.errors import ConfigurationError, Fault
from pytest_browserpool.recovery import signals as s
from pytest_browserpool.recovery.breaker import Breakers
from pytest_browserpool.recovery.choice import CAPS, Plan
from pytest_browserpool.recovery.limits import Attempts, Backoff, Seconds
from pytest_browserpool.recovery.machine import IllegalTransition, Machine
from pytest_browserpool.recovery.signals import Step
from pytest_browserpool.recovery.strategies import STRATEGIES, Situation, choose, known
from pytest_browserpool.recovery.table import State

PROGRESSIVE, IMMEDIATE = STRATEGIES["progressive"], STRATEGIES["immediate"]
COORDINATED, NONE = STRATEGIES["coordinated"], STRATEGIES["none"]


def machine(*candidates: s.Candidate, **plan: object) -> Machine:
    made = Machine(Plan(candidates=candidates, **plan), source=random.Random(0))  # type: ignore[arg-type]
    made.handle(s.Begin(at=0.0, key=candidates[0].key))
    return made


def steps(m: Machine, faults: Iterable[type[Fault]], blocked: frozenset[str] = frozenset()) -> list[str]:
    """The names of the orders that answer ``faults``, one after the other, every step carried out at once."""
    names, at = [], 1.0
    for fault in faults:
        *_, last = m.handle(s.Faulted(at=at, fault=fault, blocked=blocked))
        if isinstance(last, s.Wait):
            at += last.seconds
            (last,) = m.handle(s.Waited(at=at, blocked=blocked))
        names.append(f"{type(last).__name__} {getattr(last, 'key', '')}".strip())
        if isinstance(last, s.GiveUp):
            break
        m.handle(s.Started(at=at, attempt=m.attempt))
        at += 0.01
    return names


def test_progressive_climbs_from_the_cheapest_step_to_the_cpu() -> None:
    m = machine(CHROMIUM, FIREFOX, SHELL, fallback="cpu", backend="webgpu")
    assert steps(m, [errors.ConnectionLost] * 9) == [
        "Retry chromium",
        "ReloadModel chromium",
        "RestartBrowser chromium",
        "Migrate firefox",
        "Retry firefox",
        "Migrate shell",
        "GiveUp",
    ]
    m = machine(CHROMIUM, FIREFOX, SHELL, fallback="cpu", backend="webgpu")
    assert steps(m, [errors.ConnectionLost, *[errors.DeviceLost] * 9]) == [
        "Retry chromium",
        "ReloadModel chromium",
        "RestartBrowser chromium",
        "Migrate firefox",
        "Migrate shell",
        "RunOnCpu shell",
        "GiveUp",
    ]


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        (errors.ConnectionLost, "Retry"),
        (errors.SessionRefused, "ReloadModel"),
        (errors.OutOfMemory, "ReloadModel"),
        (errors.DeviceLost, "ReloadModel"),
        (errors.PageHung, "ReloadModel"),
        (errors.PageCrashed, "ReloadModel"),
        (errors.BrowserCrashed, "RestartBrowser"),
        (errors.LaunchFailed, "RestartBrowser"),
    ],
)
def test_first_step_by_fault(fault: type[Fault], first: str) -> None:
    assert steps(machine(CHROMIUM, FIREFOX), [fault]) == [f"{first} chromium"]


@pytest.mark.parametrize("seat", [FIREFOX, CHROMIUM])
def test_a_dead_content_process_costs_its_page_and_not_the_browser(seat: s.Candidate) -> None:
    m = machine(seat)
    drop, order = m.handle(s.Faulted(at=1.0, fault=errors.PageCrashed))
    assert isinstance(drop, s.DropPage)
    assert isinstance(order, s.ReloadModel)


def test_a_crash_retires_the_instance_even_when_nothing_is_left_to_try() -> None:
    m = machine(CHROMIUM, strategy=NONE)
    retire, end = m.handle(s.Faulted(at=1.0, fault=errors.BrowserCrashed))
    assert isinstance(retire, s.RetireBrowser)
    assert isinstance(end, s.GiveUp)
    assert (m.outcome, end.fault) == ("not_retried", errors.BrowserCrashed)


def test_giving_up_after_a_lost_connection_closes_the_page_that_may_still_run() -> None:
    m = machine(CHROMIUM, strategy=NONE)
    drop, end = m.handle(s.Faulted(at=1.0, fault=errors.ConnectionLost))
    assert (type(drop), type(end)) == (s.DropPage, s.GiveUp)


def test_immediate_goes_to_the_standby_and_only_stays_where_there_is_no_other() -> None:
    assert steps(machine(CHROMIUM, FIREFOX, SECOND, strategy=IMMEDIATE), [errors.PageHung] * 2) == [
        "UseStandby chromium#2",
        "Migrate firefox",
    ]
    alone = machine(CHROMIUM, strategy=IMMEDIATE)
    assert steps(alone, [errors.PageHung] * 2) == ["ReloadModel chromium", "RestartBrowser chromium"]


def test_failing_over_waits_for_nothing() -> None:
    m = machine(CHROMIUM, FIREFOX, SHELL, strategy=IMMEDIATE, backoff=Backoff(base=1.0, jitter=0.0))
    for at, key in ((1.0, "firefox"), (2.0, "shell")):
        *_, order = m.handle(s.Faulted(at=at, fault=errors.BrowserCrashed))
        assert (type(order), order.key) == (s.Migrate, key)
        m.handle(s.Started(at=at, attempt=m.attempt))


def test_two_faults_in_the_only_browser_are_survived() -> None:
    m = machine(CHROMIUM)
    assert steps(m, [errors.BrowserCrashed, errors.BrowserCrashed]) == ["RestartBrowser chromium"] * 2
    m.handle(s.Succeeded(at=9.0))
    assert (m.outcome, m.recoveries) == ("recovered", 2)


def test_a_model_that_kills_every_browser_ends_with_its_history() -> None:
    m = machine(CHROMIUM, FIREFOX, SHELL)
    done = steps(m, [errors.BrowserCrashed] * 20)
    assert done[-1] == "GiveUp"
    assert {a.browser for a in m.story} == {"chromium", "firefox", "headless-shell"}
    assert all(a.outcome == "browser_crashed" for a in m.story)
    assert len(m.story) <= 7


def test_a_fault_during_recovery_is_the_next_decision() -> None:
    m = machine(CHROMIUM, FIREFOX)
    m.handle(s.Faulted(at=1.0, fault=errors.PageHung))
    *_, wait = m.handle(s.Faulted(at=2.0, fault=errors.BrowserCrashed, detail="while the model loaded"))
    assert isinstance(wait, s.Wait)
    (order,) = m.handle(s.Waited(at=3.0))
    assert isinstance(order, s.RestartBrowser)
    assert [a.outcome for a in m.story] == ["page_hung", "browser_crashed", ""]


@pytest.mark.parametrize("error", ["AssertionError", "InputError", "UnsupportedOperator", "RunFailed"])
def test_what_is_not_a_fault_is_never_retried(error: str) -> None:
    m = machine(CHROMIUM, FIREFOX, fallback="cpu", backend="webgpu")
    (end,) = m.handle(s.NotAFault(at=1.0, error=error))
    assert isinstance(end, s.GiveUp)
    assert (end.fault, m.outcome, m.recoveries) == (None, "not_retried", 0)


def test_the_cpu_only_where_allowed_and_then_degraded() -> None:
    faults = [errors.DeviceLost] * 9
    assert not any("Cpu" in x for x in steps(machine(CHROMIUM, backend="webgpu"), faults))
    assert not any("Cpu" in x for x in steps(machine(CHROMIUM, fallback="cpu", backend="wasm"), faults))
    m = machine(CHROMIUM, fallback="cpu", backend="webgpu")
    assert steps(m, faults[:3])[-1] == "RunOnCpu chromium"
    m.handle(s.Succeeded(at=50.0))
    assert m.degraded
    assert m.outcome == "degraded"


def test_after_the_cpu_every_step_stays_on_it() -> None:
    m = machine(CHROMIUM, FIREFOX, fallback="cpu", backend="webgpu", backoff=Backoff(base=0.0))
    for at in range(1, 5):
        *_, order = m.handle(s.Faulted(at=at, fault=errors.DeviceLost))
        m.handle(s.Started(at=at, attempt=m.attempt))
    assert isinstance(order, s.RunOnCpu)
    *_, order = m.handle(s.Faulted(at=5.0, fault=errors.PageHung))
    assert isinstance(order, s.ReloadModel)
    assert order.on_cpu


# -- limits --


def test_a_hang_that_ate_the_whole_timeout_still_gets_one_full_attempt() -> None:
    m = machine(CHROMIUM, priority=1, timeout=40.0)
    *_, order = m.handle(s.Faulted(at=40.0, fault=errors.PageHung))
    assert isinstance(order, s.ReloadModel)
    assert order.seconds == 40.0
    m.handle(s.Started(at=41.0, attempt=2))
    *_, end = m.handle(s.Faulted(at=80.0, fault=errors.PageHung))
    assert isinstance(end, s.GiveUp)
    assert end.reason == "priority 1: 40.0 s spent on recovery, 40 s allowed"


def test_a_step_that_cannot_end_in_time_is_refused_and_a_cheaper_one_taken() -> None:
    m = machine(
        CHROMIUM,
        FIREFOX,
        strategy=IMMEDIATE,
        limit=Seconds(10.0),
        costs={Step.MIGRATE: 20.0, Step.RELOAD: 1.0},
    )
    *_, order = m.handle(s.Faulted(at=1.0, fault=errors.PageHung))
    assert isinstance(order, s.ReloadModel)
    assert m.story[-1].refused == (
        "use_standby: no other seat is left",
        "migrate: needs 20 s, 10.0 s are left",
    )


def test_time_up_ends_it_and_closes_the_page_that_still_runs() -> None:
    m = machine(CHROMIUM, limit=Seconds(5.0))
    m.handle(s.Faulted(at=1.0, fault=errors.PageHung))
    m.handle(s.Started(at=1.5, attempt=2))
    with pytest.raises(IllegalTransition, match="are left"):
        m.handle(s.TimeUp(at=5.9))
    drop, end = m.handle(s.TimeUp(at=6.0))
    assert (type(drop), type(end), m.state) == (s.DropPage, s.GiveUp, State.GAVE_UP)
    assert end.fault is errors.PageHung


def test_cancelled_while_running_closes_the_page() -> None:
    m = machine(CHROMIUM)
    drop, end = m.handle(s.Cancelled(at=1.0))
    assert (type(drop), end.reason, m.outcome) == (s.DropPage, "cancelled", "cancelled")


def test_attempts_are_limited() -> None:
    assert steps(machine(CHROMIUM, limit=Attempts(2)), [errors.PageHung] * 3) == [
        "ReloadModel chromium",
        "GiveUp",
    ]


# -- the breaker --


def test_an_open_breaker_steers_away_and_never_blocks_the_last_candidate() -> None:
    crash = [errors.BrowserCrashed]
    assert steps(machine(CHROMIUM, FIREFOX, SHELL), crash, frozenset({"chromium"})) == ["Migrate firefox"]
    assert steps(machine(CHROMIUM, FIREFOX, SHELL), crash, frozenset({"chromium", "firefox"})) == [
        "Migrate shell"
    ]
    assert steps(machine(CHROMIUM), crash, frozenset({"chromium"})) == ["RestartBrowser chromium"]


def test_blocked_candidates_are_tried_before_giving_up() -> None:
    m = machine(CHROMIUM, FIREFOX)
    done = steps(m, [errors.BrowserCrashed] * 3, frozenset({"firefox"}))
    # the only browser without an open breaker is used up first
    assert done == ["RestartBrowser chromium", "RestartBrowser chromium", "Migrate firefox"]


def test_breakers_and_machine_together() -> None:
    breakers = Breakers()
    for _ in range(5):
        ticket = breakers.of("chromium").acquire(0.0)
        assert ticket is not None
        breakers.of("chromium").failure(0.0, ticket)
    blocked = breakers.blocked(1.0, ["chromium", "firefox"])
    assert blocked == {"chromium"}
    assert steps(machine(CHROMIUM, FIREFOX), [errors.PageHung], blocked) == ["Migrate firefox"]


# -- echoes, and what the adapter may answer --


def test_one_cause_seen_three_times_is_one_recovery() -> None:
    m = machine(CHROMIUM, FIREFOX)
    *_, order = m.handle(s.Faulted(at=1.0, fault=errors.ConnectionLost, attempt=1))
    assert isinstance(order, s.Retry)
    assert m.handle(s.Faulted(at=1.01, fault=errors.PageCrashed, attempt=1)) == []
    assert m.handle(s.Faulted(at=1.02, fault=errors.BrowserCrashed, attempt=1)) == []
    m.handle(s.Started(at=1.5, attempt=2))
    m.handle(s.Succeeded(at=2.0))
    assert m.handle(s.Faulted(at=2.1, fault=errors.BrowserCrashed, attempt=1)) == []
    assert (m.outcome, m.recoveries) == ("recovered", 1)
    assert [a.action for a in m.story].count("echo") == 3


def test_worse_news_while_waiting_changes_the_decision() -> None:
    m = machine(CHROMIUM)
    steps(m, [errors.PageHung])
    *_, wait = m.handle(s.Faulted(at=5.0, fault=errors.ConnectionLost))
    assert isinstance(wait, s.Wait)
    assert m.handle(s.Faulted(at=5.01, fault=errors.ConnectionLost)) == []
    retire, again = m.handle(s.Faulted(at=5.02, fault=errors.BrowserCrashed))
    assert (type(retire), type(again)) == (s.RetireBrowser, s.Wait)
    (order,) = m.handle(s.Waited(at=6.0))
    assert isinstance(order, s.RestartBrowser)


def test_a_standby_that_is_gone_leaves_the_operation_where_it_was() -> None:
    m = machine(CHROMIUM, SECOND, strategy=IMMEDIATE)
    *_, order = m.handle(s.Faulted(at=1.0, fault=errors.PageHung))
    assert isinstance(order, s.UseStandby)
    (order,) = m.handle(s.Unavailable(at=1.1, reason="evicted"))
    # no longer as a standby, but as a seat like any other
    assert (type(order), order.key) == (s.Migrate, "chromium#2")
    *_, order = m.handle(s.Unavailable(at=1.2, reason="the pool is full"))
    assert isinstance(order, s.Wait)
    (order,) = m.handle(s.Waited(at=2.0))
    assert (type(order), order.key) == (s.ReloadModel, "chromium")


def test_the_pool_may_take_another_seat_but_no_excluded_one() -> None:
    m = machine(CHROMIUM, FIREFOX, SHELL, strategy=IMMEDIATE)
    *_, order = m.handle(s.Faulted(at=1.0, fault=errors.PageHung))
    assert (order.key, order.exclude) == ("firefox", {"chromium"})
    with pytest.raises(IllegalTransition, match="cannot go to chromium"):
        m.handle(s.Started(at=2.0, attempt=2, key="chromium"))
    m.handle(s.Started(at=2.0, attempt=2, key="shell"))
    assert m.seats == {"": "shell"}
    assert m.story[-1].browser == "headless-shell"
    *_, order = m.handle(s.Faulted(at=3.0, fault=errors.PageHung))
    assert order.key == "firefox"


def test_illegal_events_raise_with_the_story_and_change_nothing() -> None:
    m = machine(CHROMIUM)
    before = (m.state, m.story, m.attempt, m.seats)
    for event in (
        s.Begin(at=1.0, key="chromium"),
        s.Waited(at=1.0),
        s.Started(at=1.0, attempt=1),
        s.Restored(at=1.0, part=""),
        s.Faulted(at=1.0, fault=errors.PageHung, part="nobody"),
        s.Faulted(at=1.0, fault=errors.PageHung, attempt=7),
        s.Succeeded(at=-1.0),
    ):
        with pytest.raises(IllegalTransition) as caught:
            m.handle(event)
        assert "begin on chromium: under way" in str(caught.value)
        assert (m.state, m.story, m.attempt, m.seats) == before
    m.handle(s.Succeeded(at=0.5))  # the refused events at 1.0 did not move the clock
    assert m.outcome == "clean"


# -- coordinated --


def shards(**plan: object) -> Machine:
    m = Machine(
        Plan(candidates=(CHROMIUM, FIREFOX, SHELL, SECOND), strategy=COORDINATED, **plan),
        source=random.Random(0),
    )  # type: ignore[arg-type]
    m.handle(s.Begin(at=0.0, parts={"embed": "chromium", "middle": "firefox", "head": "shell"}))
    return m


def test_coordinated_stops_the_sound_parts_restores_the_lost_ones_in_order_and_resumes() -> None:
    m = shards()
    drop, stop = m.handle(s.Faulted(at=1.0, fault=errors.DeviceLost, part="head"))
    assert (drop.key, stop.parts) == ("shell", ("embed", "middle"))
    # a second part dies while the first is being dealt with: it belongs to the same recovery
    retire, stop = m.handle(s.Faulted(at=1.1, fault=errors.BrowserCrashed, part="embed"))
    assert (retire.key, type(stop)) == ("chromium", s.Wait)
    (stop,) = m.handle(s.Waited(at=1.5))
    assert stop.parts == ("middle",)
    (first,) = m.handle(s.Stopped(at=2.0, step=7))
    assert (first.part, first.step, type(first.by)) == ("embed", 7, s.RestartBrowser)
    with pytest.raises(IllegalTransition, match="'embed' is to be restored"):
        m.handle(s.Restored(at=3.0, part="head"))
    (second,) = m.handle(s.Restored(at=3.0, part="embed"))
    assert (second.part, second.step) == ("head", 7)
    (resume,) = m.handle(s.Restored(at=4.0, part="head"))
    assert (resume.parts, resume.step) == (("embed", "middle", "head"), 7)
    m.handle(s.Resumed(at=4.1))
    m.handle(s.Succeeded(at=5.0))
    assert m.outcome == "recovered"
    assert m.story[1].outcome == "ok"  # the part that was never lost


def test_a_milder_sign_while_the_parts_stop_does_not_bring_a_dead_browser_back() -> None:
    m = machine(CHROMIUM, strategy=COORDINATED)
    m.handle(s.Faulted(at=1.0, fault=errors.BrowserCrashed))
    m.handle(s.Faulted(at=1.1, fault=errors.PageCrashed))
    m.handle(s.Waited(at=1.2))
    (restore,) = m.handle(s.Stopped(at=1.3, step=0))
    assert isinstance(restore, s.Restore)
    assert isinstance(restore.by, s.RestartBrowser)


def test_a_second_sign_while_the_others_stop_is_not_of_the_seat_to_come() -> None:
    """The part is to go to Firefox, where nothing was begun: that no page is there must not cost Firefox a step."""
    m = machine(CHROMIUM, FIREFOX, strategy=COORDINATED)
    gone = s.Faulted(at=1.0, fault=errors.LaunchFailed, blocked=frozenset({"chromium"}))
    *_, stop = m.handle(gone)
    assert isinstance(stop, s.StopAll)
    assert list(m.seats.values()) == ["firefox"]
    for sign in (errors.PageCrashed, errors.BrowserCrashed):
        assert m.handle(s.Faulted(at=1.1, fault=sign)) == []
    (restore,) = m.handle(s.Stopped(at=1.2, step=0))
    assert isinstance(restore, s.Restore)
    assert isinstance(restore.by, s.Migrate)
    assert restore.by.key == "firefox"


def test_coordinated_prefers_a_redundant_copy_and_never_the_cpu() -> None:
    m = shards(fallback="cpu", backend="webgpu")
    m.handle(s.Faulted(at=1.0, fault=errors.PageHung, part="middle"))
    (restore,) = m.handle(s.Stopped(at=1.1, step=0))
    assert (type(restore.by), restore.by.key) == (s.UseStandby, "chromium#2")
    alone = machine(CHROMIUM, strategy=COORDINATED, fallback="cpu", backend="webgpu")
    at = 1.0
    while alone.state is not State.GAVE_UP:
        *_, last = alone.handle(s.Faulted(at=at, fault=errors.BrowserCrashed))
        assert not isinstance(last, s.RunOnCpu)
        if isinstance(last, s.Wait):
            at += 3
            alone.handle(s.Waited(at=at))


def test_parts_without_coordination_are_refused() -> None:
    m = Machine(Plan(candidates=(CHROMIUM, FIREFOX)), source=random.Random(0))
    with pytest.raises(IllegalTransition, match="2 parts need a coordinated strategy"):
        m.handle(s.Begin(at=0.0, parts={"a": "chromium", "b": "firefox"}))
    assert m.state is State.READY


def test_two_parts_lost_in_one_decision_get_two_seats() -> None:
    m = Machine(
        Plan(candidates=(CHROMIUM, FIREFOX, SHELL, SECOND), strategy=Everywhere(Step.RELOAD, Step.MIGRATE)),
        source=random.Random(0),
    )
    m.handle(s.Begin(at=0.0, parts={"a": "chromium", "b": "firefox"}))
    m.handle(s.Faulted(at=1.0, fault=errors.PageHung, part="a"))  # reloads in place
    *_, wait = m.handle(s.Faulted(at=1.1, fault=errors.PageHung, part="b"))  # both reload
    assert isinstance(wait, s.Wait)
    m.handle(s.Waited(at=2.0))
    m.handle(s.Faulted(at=2.1, fault=errors.BrowserCrashed, part="a"))
    m.handle(s.Faulted(at=2.2, fault=errors.BrowserCrashed, part="b"))
    assert sorted(m.seats.values()) == ["chromium#2", "shell"]


# -- strategies --


class Everywhere:
    """A user's strategy that suggests the same steps always."""

    name, coordinated = "everywhere", True

    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    def suggest(self, situation: Situation) -> tuple[Step, ...]:
        return self.steps


def test_no_coordinated_strategy_gets_the_cpu() -> None:
    m = machine(CHROMIUM, strategy=Everywhere(Step.CPU), fallback="cpu", backend="webgpu")
    *_, end = m.handle(s.Faulted(at=1.0, fault=errors.PageHung))
    assert isinstance(end, s.GiveUp)
    assert "promises the same bits" in end.reason


def test_a_cpu_that_could_not_be_had_degrades_nothing() -> None:
    m = machine(CHROMIUM, fallback="cpu", backend="webgpu")
    assert steps(m, [errors.DeviceLost] * 2) == ["ReloadModel chromium", "RestartBrowser chromium"]
    *_, wait = m.handle(s.Faulted(at=2.0, fault=errors.DeviceLost))
    (order,) = m.handle(s.Waited(at=2.0 + wait.seconds))
    assert isinstance(order, s.RunOnCpu)
    m.handle(s.Unavailable(at=4.0, reason="the pool is full"))
    (order,) = m.handle(s.Waited(at=8.0))
    assert (type(order), order.on_cpu, m.degraded) == (s.ReloadModel, False, False)


class Stubborn:
    """A user's strategy that wants the same forbidden step for ever."""

    name, coordinated = "stubborn", False

    def suggest(self, situation: Situation) -> Iterator[Step]:
        while True:
            yield Step.RETRY


def test_a_strategy_that_insists_on_a_forbidden_step_gets_nothing() -> None:
    m = machine(CHROMIUM, strategy=Stubborn())
    drop, end = m.handle(s.Faulted(at=1.0, fault=errors.DeviceLost))
    assert (type(drop), type(end)) == (s.DropPage, s.GiveUp)
    assert "forbidden after device_lost" in end.reason


def test_a_retry_is_allowed_once_where_it_is_allowed_at_all() -> None:
    m = machine(CHROMIUM, strategy=Stubborn())
    assert steps(m, [errors.ConnectionLost] * 3) == ["Retry chromium", "GiveUp"]
    assert CAPS[Step.RETRY] == 1


@pytest.mark.parametrize(
    ("marker", "setting", "priority", "name"),
    [
        (None, "progressive", 3, "progressive"),
        (None, "progressive", 2, "immediate"),
        ("progressive", "progressive", 1, "progressive"),
        (None, "none", 1, "none"),
        ("coordinated", "none", 5, "coordinated"),
    ],
)
def test_which_strategy(marker: str | None, setting: str, priority: int, name: str) -> None:
    assert choose(marker, setting, priority).name == name


def test_an_unknown_strategy_is_named_with_the_known_ones() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"did you mean 'progressive'\?"):
        choose("progresive", "none", 3)


def test_the_story_fits_the_fault_record() -> None:
    m = machine(CHROMIUM, FIREFOX)
    steps(m, [errors.DeviceLost])
    m.handle(s.Succeeded(at=3.0))
    first, second = (a.to_plain() for a in m.story)
    assert first == {
        "action": "begin",
        "browser": "chromium",
        "seconds": 1.0,
        "outcome": "device_lost",
        "seat": "chromium",
    }
    assert (second["action"], second["seconds"], second["outcome"]) == ("reload_model", 2.0, "ok")


def test_a_seat_that_could_not_be_left_is_climbed_on() -> None:
    m = machine(CHROMIUM, FIREFOX)
    *_, order = m.handle(s.Faulted(at=1.0, fault=errors.PageHung, blocked=frozenset({"chromium"})))
    assert isinstance(order, s.Migrate)
    *_, wait = m.handle(s.Unavailable(at=1.1, reason="the pool is full"))
    assert isinstance(wait, s.Wait)
    (order,) = m.handle(s.Waited(at=2.0))
    assert isinstance(order, s.ReloadModel)
    m.handle(s.Started(at=2.0, attempt=m.attempt))
    m.handle(s.Faulted(at=2.0, fault=errors.PageHung))
    (order,) = m.handle(s.Waited(at=4.0))
    assert isinstance(order, s.RestartBrowser)


# -- strategies from hooks --


def test_a_hooked_strategy_is_known_beside_the_built_in_ones_or_in_place_of_one() -> None:
    class Patient:
        name, coordinated = "patient", False

        def suggest(self, situation: Situation) -> list[Step]:
            return [Step.RESTART]

    class Own(Patient):
        name = "progressive"

    found = known([None, [Patient()], [Own()]])
    assert isinstance(found["patient"], Patient)
    assert isinstance(found["progressive"], Own)
    assert found["immediate"] is STRATEGIES["immediate"]
    with pytest.raises(ConfigurationError, match=r"'reload' is no recovery strategy[\s\S]*give it a name"):
        known([["reload"]])  # type: ignore[list-item]
