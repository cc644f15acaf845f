"""What the probe found is not asked twice, unless a browser gave no answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers import answers
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.config import Settings
from pytest_browserpool.values import BackendSupport, BrowserCapabilities

BROWSER = InstalledBrowser(name="own", family="chrome", engine="chromium", executable="/nowhere/own")
SETTINGS = Settings(rootdir=".", db="")
WASM = BackendSupport(name="wasm", available=True)


def answer(*backends: BackendSupport) -> BrowserCapabilities:
    return BrowserCapabilities(name="own", family="chrome", version="1", isolated=True, backends=backends)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_an_answer_is_kept_for_good(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(WASM, BackendSupport(name="webgpu", available=False, detail="no adapter"))
    answers.keep(found, BROWSER, SETTINGS, cache)
    monkeypatch.setattr(answers, "FAULTED_SECONDS", -1.0)
    assert answers.known(BROWSER, SETTINGS, cache) == found


def test_where_a_backend_gave_none_it_is_kept_for_an_hour(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = answer(WASM, BackendSupport(name="webgpu", available=False, detail="hung", faulted=True))
    answers.keep(found, BROWSER, SETTINGS, cache)
    assert answers.known(BROWSER, SETTINGS, cache) == found
    monkeypatch.setattr(answers, "FAULTED_SECONDS", -1.0)
    answers.keep(found, BROWSER, SETTINGS, cache)
    assert answers.known(BROWSER, SETTINGS, cache) is None


def test_a_browser_behind_an_endpoint_is_asked_every_time(cache: Cache) -> None:
    running = replace(BROWSER, executable="", endpoint="http://127.0.0.1:9222")
    answers.keep(answer(WASM), running, SETTINGS, cache)
    assert answers.known(running, SETTINGS, cache) is None
