"""The file of applied recommendations: what is written is read, what is wrong is named, what was before comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_browserpool import applied
from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.preferences import AppliedChange, Preference, browser_nodes_of, preferred
from pytest_browserpool.values import BACKENDS, Adapter, BackendSupport, BrowserCapabilities, ModelNeeds

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
PREFERENCES = st.builds(
    lambda subject, browser, backend, adapter, of_type: Preference(
        **{"type" if of_type else "model": subject}, browser=browser, backend=backend, adapter=adapter
    ),
    WORDS,
    WORDS,
    st.sampled_from(BACKENDS),
    st.sampled_from(["", "software", "hardware"]),
    st.booleans(),
)
CHANGES = st.builds(
    AppliedChange,
    id=WORDS,
    title=WORDS,
    evidence=WORDS,
    applied_at=st.integers(0, 4_000_000_000).map(float),
    expected_s=st.none() | st.integers(0, 10**6).map(lambda n: n / 1000),
    prefer=st.none() | PREFERENCES,
    max_browsers=st.none() | st.integers(1, 99),
    nodes=st.dictionaries(WORDS, st.integers(1, 99), max_size=3),
    of_nodes=st.none() | st.integers(1, 99),
)


@given(st.lists(CHANGES, max_size=4))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, changes: list[AppliedChange]
) -> None:
    path = tmp_path_factory.mktemp("applied") / "history.applied.toml"
    applied.write(path, changes)
    assert applied.read(path) == tuple(changes)


def change(name: str, **more: object) -> AppliedChange:
    return AppliedChange(id=name, title=name, evidence="", applied_at=1.0, **more)  # type: ignore[arg-type]


def test_undo_goes_back_step_by_step_to_nothing(tmp_path: Path) -> None:
    path = applied.path_of(tmp_path / "history.duckdb")
    assert path.name == "history.applied.toml"
    applied.write(path, [change("a")])
    applied.write(path, applied.merged(applied.read(path), [change("b"), change("a", max_browsers=5)]))
    assert [(c.id, c.max_browsers) for c in applied.read(path)] == [("b", None), ("a", 5)]
    assert applied.undo(path)
    assert [(c.id, c.max_browsers) for c in applied.read(path)] == [("a", None)]
    assert applied.undo(path)
    assert not path.exists()
    assert not applied.undo(path)
    assert list(tmp_path.iterdir()) == []


def test_any_name_of_a_history_can_be_undone(tmp_path: Path) -> None:
    path = applied.path_of(tmp_path / "h[1].duckdb")
    applied.write(path, [change("a")])
    assert applied.undo(path)
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_written_leaves_nothing_to_undo(tmp_path: Path) -> None:
    path = applied.path_of(tmp_path / "history.duckdb")
    applied.write(path, [change("a")])
    path.with_name(f"{path.name}.partial").mkdir()  # which no file takes the place of
    with pytest.raises(ConfigurationError, match="cannot be written"):
        applied.write(path, [change("b")])
    assert [c.id for c in applied.read(path)] == ["a"]
    assert applied.undo(path)
    assert not path.exists()
    assert not applied.undo(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[applied", "is not TOML"),
        ("[other]", "takes only"),
        ('[[applied]]\nbrwser = "x"', "did you mean 'browser'"),
        ('[[applied]]\nmodel = "m"\nbrowser = "firefox"\nbackend = "webgl"', "one of webgpu"),
        ('[[applied]]\nmodel = "m"\nbrowser = "firefox"', "browser and backend"),
        ("[[applied]]\nmax_browsers = 0", "at least 1"),
        ("[[applied]]\nnodes = { firefox = true }", "at least 1"),
        ("[[applied]]\ntitle = 3", "should be text"),
        ('[[applied]]\napplied_at = "today"', "a time in applied_at"),
    ],
)
def test_what_is_wrong_in_it_is_named_with_the_remedy(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "history.applied.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        applied.read(path)
    assert "--undo" in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_limit_of_nodes_grows_with_the_nodes_of_a_run() -> None:
    limited = change("a", nodes={"firefox": 1, "chromium": 3}, of_nodes=4)
    assert browser_nodes_of([limited], 4) == browser_nodes_of([limited], 2) == {"firefox": 1, "chromium": 3}
    assert browser_nodes_of([limited], 10) == {"firefox": 3, "chromium": 8}


OF_MODEL = Preference(model="vad", browser="firefox", backend="wasm")
OF_TYPE = Preference(type="audio", browser="edge", backend="webnn")


@pytest.mark.parametrize(
    ("needs", "wanted"),
    [
        (ModelNeeds(id="vad", type="audio"), ("firefox", "wasm")),
        (ModelNeeds(id="pitch", type="audio"), ("edge", "webnn")),
        (ModelNeeds(id="ocr", type="vision"), None),
        (ModelNeeds(id="vad", browsers=("chromium",)), None),
        (ModelNeeds(id="vad", on="each"), None),
        (ModelNeeds(id="vad", shards=2), None),
        (ModelNeeds(id="vad", backends=("webgpu", "wasm")), None),
        (ModelNeeds(id="vad", backends=("wasm", "webgpu")), ("firefox", "wasm")),
        (None, None),
    ],
)
def test_markers_win_over_preferences(needs: ModelNeeds | None, wanted: tuple[str, str] | None) -> None:
    found = preferred([OF_TYPE, OF_MODEL], needs)
    assert (found.way if found else None) == wanted


def test_a_preference_holds_for_the_kind_of_adapter_that_it_was_measured_on() -> None:
    def browser(adapter: Adapter | None) -> BrowserCapabilities:
        backends = (BackendSupport(name="webgpu", available=True, adapter=adapter),)
        return BrowserCapabilities(name="chromium", family="chrome", version="1", backends=backends)

    hard, soft = browser(Adapter(vendor="nvidia")), browser(Adapter(description="SwiftShader"))
    for_hardware = Preference(model="m", browser="chromium", backend="webgpu", adapter="hardware")
    assert for_hardware.fits(hard)
    assert not for_hardware.fits(soft)
    assert not for_hardware.fits(browser(None))
    assert not Preference(model="m", browser="chromium", backend="wasm").fits(hard)
