"""Which switches a Chromium starts with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers.answers import keep, known, on_hardware
from pytest_browserpool.browsers.catalogue import InstalledBrowser
from pytest_browserpool.browsers.flags import merge_flags, switches
from pytest_browserpool.config import Settings
from pytest_browserpool.values import Adapter, BackendSupport, BrowserCapabilities

ZEROED_IN_A_LOOP = "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension"
CHROMIUM = InstalledBrowser(
    name="chromium", family="chrome", engine="chromium", executable="/nowhere/chromium"
)
SETTINGS = Settings(rootdir=".", db="")


def kept(cache: Cache, browser: InstalledBrowser, adapter: Adapter | None, available: bool = True) -> None:
    """As if the probe had found that adapter."""
    support = BackendSupport(name="webgpu", available=available, adapter=adapter)
    found = BrowserCapabilities(name=browser.name, family=browser.family, version="1", backends=(support,))
    keep(found, browser, SETTINGS, cache)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_on_a_gpu_shaders_are_translated_as_in_everybodys_chromium() -> None:
    assert ZEROED_IN_A_LOOP in switches("chromium", 1, hardware=False, root=False)
    assert not [s for s in switches("chromium", 1, hardware=True, root=False) if "dawn" in s]


def test_root_starts_without_the_sandbox_and_nobody_else_does() -> None:
    assert "--no-sandbox" in switches("chromium", 1, hardware=True, root=True)
    assert "--no-sandbox" not in switches("chromium", 1, hardware=True, root=False)


def test_a_users_own_features_join_ours_and_come_last() -> None:
    own = ["--disable-dawn-features=mine", "--enable-features=Mine", "--theirs"]
    found = switches("chromium", 7, hardware=False, root=False, own=own)
    assert f"{ZEROED_IN_A_LOOP},mine" in found
    assert "--enable-features=WebMachineLearningNeuralNetwork,Mine" in found
    assert "--theirs" in found
    assert [s.partition("=")[0] for s in found].count("--disable-dawn-features") == 1


def test_a_switch_that_is_no_list_stands_once() -> None:
    assert merge_flags(["--x", "--y=1"], ["--x"]) == ["--x", "--y=1"]


def test_a_gpu_is_one_that_the_probe_has_seen(cache: Cache) -> None:
    assert known(CHROMIUM, SETTINGS, cache) is None
    assert not on_hardware(CHROMIUM, SETTINGS, cache)
    kept(cache, CHROMIUM, Adapter(vendor="nvidia", architecture="hopper"))
    assert on_hardware(CHROMIUM, SETTINGS, cache)
    kept(cache, CHROMIUM, Adapter(vendor="google", architecture="swiftshader"))
    assert not on_hardware(CHROMIUM, SETTINGS, cache)


@pytest.mark.parametrize("available", [True, False])
def test_an_adapter_that_computes_nothing_right_is_no_gpu(cache: Cache, available: bool) -> None:
    kept(cache, CHROMIUM, Adapter(vendor="nvidia"), available)
    assert on_hardware(CHROMIUM, SETTINGS, cache) is available


def test_what_was_found_of_other_switches_is_of_another_browser(cache: Cache) -> None:
    kept(cache, CHROMIUM, Adapter(vendor="nvidia"))
    assert not on_hardware(replace(CHROMIUM, flags=("--use-webgpu-adapter=swiftshader",)), SETTINGS, cache)
