"""What reports bring along is kept once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool.report.details import MAX_WORD, Words

plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.text(), inner, max_size=5)
    ),
)


def like(value: object) -> object:
    """With types: a list is no tuple, and 1 is not True."""
    if isinstance(value, dict):
        return {key: like(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [like(item) for item in value]
    return type(value), value


@given(plain)
def test_what_is_shared_is_the_same_value(value: object) -> None:
    assert like(Words().shared(value)) == like(value)


def test_the_words_of_a_second_report_are_those_of_the_first() -> None:
    words = Words()

    def told() -> dict[str, object]:
        return {
            "nodeid": "".join(["a", "::b"]),
            "location": ("".join(["a", ".py"]), 1, "b"),
            "out": "x" * 500,
        }

    first, second = words.shared(told()), words.shared(told())
    assert first["nodeid"] is second["nodeid"]
    assert first["location"][0] is second["location"][0]
    assert first["out"] == second["out"]
    assert len(first["out"]) > MAX_WORD
    assert first["out"] not in words._known, "output is kept by its report alone"


def phase(when: str, **more: object) -> dict[str, object]:
    return {"nodeid": "a::b", "when": when, "keywords": {"b": 1, "a": 1}, "sections": [], **more}


def test_what_each_phase_of_a_test_repeats_is_kept_once() -> None:
    words = Words()
    setup, call, teardown = phase("setup"), phase("call", browserpool={"n": 1}), phase("teardown")
    teardown["browserpool"] = {"n": 1}
    for data in (setup, call, teardown):
        words.of_report(data)
    assert setup["keywords"] is call["keywords"] is teardown["keywords"]
    assert call["browserpool"] is teardown["browserpool"]
    assert setup["sections"] is not call["sections"], "plugins append to them"
    assert not words._before, "nothing waits after a test's end"


def test_what_differs_between_phases_stays_different() -> None:
    words = Words()
    call, teardown = phase("call", browserpool={"console": ["x"]}), phase("teardown", browserpool={})
    other = phase("setup") | {"nodeid": "a::c", "keywords": {"c": 1}}
    for data in (call, other, teardown):
        words.of_report(data)
    assert call["browserpool"] == {"console": ["x"]}
    assert teardown == phase("teardown", browserpool={})
    assert other["keywords"] == {"c": 1}
