"""The health score of a browser."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.browsers.health import Health, Vitals, explain, healthy, penalties, score, why_retire

GIB = 2**30

vitals = st.builds(
    Vitals,
    operations=st.integers(0, 50),
    faults=st.integers(0, 50),
    streak=st.integers(0, 50),
    latency_ratio=st.floats(0.01, 100),
    drops=st.integers(0, 50),
    memory_bytes=st.integers(0, 64 * GIB),
    memory_limit_bytes=st.sampled_from([0, GIB, 4 * GIB]),
    ping_ms=st.none() | st.floats(0, 10_000),
    device_losses=st.integers(0, 3),
    crashed=st.booleans(),
)


@given(vitals)
def test_the_score_is_bounded_and_its_parts_explain_it(v: Vitals) -> None:
    assert 0 <= score(v) <= 100
    assert all(p >= 0 for p in penalties(v).values())
    if score(v) > 0:
        assert score(v) == pytest.approx(100 - sum(penalties(v).values()))
    assert healthy(v) == (score(v) >= 50 and why_retire(v) is None)


@given(vitals, st.sampled_from(["faults", "streak", "latency_ratio", "drops", "memory_bytes", "ping_ms"]))
def test_nothing_that_gets_worse_makes_the_score_better(v: Vitals, name: str) -> None:
    worse = dataclasses.replace(v, **{name: None if getattr(v, name) is None else getattr(v, name) * 2 + 1})
    assert score(worse) <= score(v)


@pytest.mark.parametrize(
    ("v", "expected"),
    [
        (Vitals(), 100),
        (Vitals(operations=50, faults=1, streak=1), 100 - 0.8 - 12),
        (Vitals(operations=1, faults=1, streak=1), 100 - 8 - 12),
        (Vitals(operations=50, faults=5, streak=5), 100 - 4 - 60),
        (Vitals(latency_ratio=4.0), 80),
        (Vitals(operations=50, faults=2, drops=2), 100 - 1.6 - 20),
        (Vitals(memory_bytes=4 * GIB, memory_limit_bytes=4 * GIB), 70),
        (Vitals(memory_bytes=5 * GIB, memory_limit_bytes=4 * GIB), 40),
        (Vitals(memory_bytes=64 * GIB), 100),
        (Vitals(ping_ms=5000.0), 70),
        (Vitals(ping_ms=None), 0),
        (Vitals(crashed=True), 0),
    ],
)
def test_the_table_of_penalties(v: Vitals, expected: float) -> None:
    assert score(v) == pytest.approx(expected)


@pytest.mark.parametrize(("before", "limit"), [(0, 3), (50, 4)])
def test_one_fault_is_forgiven_several_in_a_row_are_not(before: int, limit: int) -> None:
    health = Health()
    for _ in range(before):
        health.succeeded()
    for n in range(1, 6):
        health.faulted("page_hung")
        assert healthy(health.vitals) == (n < limit), explain(health.vitals)
    for _ in range(50):
        health.succeeded()
    assert health.score == 100


def test_a_crash_retires_at_once_and_a_second_device_loss_too() -> None:
    crashed = Health()
    crashed.faulted("browser_crashed")
    crashed.succeeded()
    assert why_retire(crashed.vitals) == "crashed"
    lossy = Health()
    lossy.faulted("device_lost")
    lossy.succeeded()
    assert healthy(lossy.vitals)
    lossy.faulted("device_lost")
    for _ in range(100):
        lossy.succeeded()
    assert lossy.score == 100
    assert not healthy(lossy.vitals)
    assert explain(lossy.vitals) == "100 (lost its GPU device 2 times)"
    assert lossy.complaint == "unhealthy: 100 (lost its GPU device 2 times)"
    assert Health().complaint is None


def test_slowness_is_measured_against_the_model_itself() -> None:
    health = Health()
    for _ in range(20):
        health.succeeded("small", 1.0)
        health.succeeded("large", 900.0)
    assert health.vitals.latency_ratio == 1.0
    health.succeeded("small", 50.0)
    assert health.vitals.latency_ratio == 1.0, "one outlier"
    for _ in range(9):
        health.succeeded("large", 3600.0)
    assert health.vitals.latency_ratio == 4.0
    assert explain(health.vitals) == "80 (latency 20)"


def test_a_silent_browser_is_dead_until_it_answers() -> None:
    health = Health()
    health.pinged(None)
    assert (health.score, healthy(health.vitals)) == (0.0, False)
    health.pinged(3.0)
    assert health.score == 100


def test_memory_and_drops_together_make_it_unhealthy() -> None:
    health = Health(memory_limit_bytes=4 * GIB)
    health.measured(int(4.2 * GIB))
    assert healthy(health.vitals)
    health.faulted("connection_lost")
    health.succeeded()
    health.faulted("connection_lost")
    assert not healthy(health.vitals), explain(health.vitals)


def test_the_module_is_pure() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import pytest_browserpool.browsers.health; "
        "print([m for m in ('pytest', 'asyncio', 'playwright', 'anyio') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
