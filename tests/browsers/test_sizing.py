"""Which browsers a pool keeps and lets go of, by the scheduler's advice."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.browsers.sizing import Sizing, first_to_go, surplus


@dataclass
class Browser:
    name: str
    last_used: float
    leases: int = 0


browsers = st.lists(
    st.builds(
        Browser,
        name=st.sampled_from(["chromium", "firefox", "headless-shell", "edge"]),
        last_used=st.floats(0, 100),
        leases=st.integers(0, 1),
    ),
    max_size=6,
)
sizings = st.builds(
    Sizing,
    size=st.integers(1, 4),
    most=st.integers(1, 4),
    soon=st.frozensets(st.sampled_from(["chromium", "firefox", "edge"])),
)


@given(browsers, sizings)
def test_only_the_surplus_goes_and_nothing_that_is_wanted(here: list[Browser], sizing: Sizing) -> None:
    gone = surplus(here, sizing)
    assert len(gone) <= max(0, len(here) - sizing.size)
    assert not any(b.leases or b.name in sizing.soon for b in gone)
    spare = [b for b in here if not (b.leases or b.name in sizing.soon)]
    if len(gone) < len(spare):
        assert len(gone) == max(0, len(here) - sizing.size), "it stops at the size only"
    rest = [b.last_used for b in spare if not any(b is g for g in gone)]
    assert all(g.last_used <= used for g in gone for used in rest), "oldest first"


@given(browsers, sizings, st.floats(0, 100))
def test_what_was_used_a_moment_ago_stays(here: list[Browser], sizing: Sizing, until: float) -> None:
    gone = surplus(here, sizing, until)
    assert all(b.last_used <= until for b in gone)
    assert gone == [b for b in surplus(here, sizing, 1000.0) if b.last_used <= until]


@given(browsers, st.frozensets(st.sampled_from(["chromium", "firefox"])))
def test_room_is_made_where_it_hurts_least(here: list[Browser], soon: frozenset[str]) -> None:
    leaving = first_to_go(here, soon)
    idle = [b for b in here if not b.leases]
    assert (leaving is None) == (not idle)
    if leaving is None:
        return
    assert not leaving.leases
    assert leaving.name not in soon or all(b.name in soon for b in idle)
