"""A browser that is none: said in seconds with its own words, and the others go on."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import anyio
import numpy as np
import onnx_models as make
import pytest

from pytest_browserpool.artefacts import pins
from pytest_browserpool.browsers import probe
from pytest_browserpool.browsers.answers import known
from pytest_browserpool.browsers.catalogue import discover
from pytest_browserpool.config import CustomBrowser, Settings
from pytest_browserpool.errors import CapabilityError, LaunchFailed


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "browser"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_executable_that_is_no_browser(fresh_bench, tmp_path):
    path = program(tmp_path, "echo cannot open display of the century >&2; exit 3")
    families = ("chrome", "firefox")
    bench = fresh_bench(
        custom=tuple(CustomBrowser(name=f"odd-{f}", family=f, executable=path) for f in families)
    )
    for family in families:
        started = time.monotonic()
        with pytest.raises(CapabilityError) as caught:
            bench.load(make.affine(), f"odd-{family}")
        assert time.monotonic() - started < 30
        assert f"odd-{family} did not start" in str(caught.value)
        assert "cannot open display of the century" in str(caught.value)
    assert bench.load(make.affine(), "chromium")({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1


def test_a_browser_that_breaks_after_it_was_probed(fresh_bench, tmp_path):
    """The probe's answer is kept; then the same file stops working, as after a broken update."""
    path = program(tmp_path, 'exec /usr/bin/chromium "$@"')
    bench = fresh_bench(
        custom=(CustomBrowser(name="own", family="chrome", executable=path),), recovery="none"
    )
    assert bench.load(make.affine(), "own")({"x": np.zeros((4, 4), np.float32)})["y"].item(0) == 1
    bench.node.end_test()
    bench.node.call(lambda: bench.node.pool.running.retire_idle("own"), 20)
    Path(path).write_text("#!/bin/sh\nexit 1\n")
    bench.node.begin_test("after the update")
    with pytest.raises(LaunchFailed, match=r"own did not start.*\n  where: .*/browser"):
        bench.load(make.affine(), "own")


def test_a_browser_that_never_answers_ends_at_the_launch_timeout(fresh_bench, tmp_path):
    path = program(tmp_path, "exec sleep 300")
    custom = (CustomBrowser(name="mute", family="chrome", executable=path),)
    bench = fresh_bench(custom=custom, launch_timeout=3.0)
    started = time.monotonic()
    with pytest.raises(CapabilityError, match="mute did not start"):
        bench.load(make.affine(), "mute")
    assert time.monotonic() - started < 40


def test_those_who_wait_for_a_probe_take_over_that_it_failed(tmp_path, monkeypatch):
    """Each process of a machine asks; one after the other would wait its whole time for a browser that never answers."""
    custom = (CustomBrowser(name="mute", family="chrome", executable=program(tmp_path, "exec sleep 300")),)
    settings = Settings(rootdir=str(tmp_path), db="", custom=custom, launch_timeout=3.0)
    (mute,) = (b for b in discover(settings).installed if b.name == "mute")
    asked: list[int] = []

    def ask(*given):
        asked.append(1)
        return run(*given)

    run = anyio.run
    monkeypatch.setattr(probe.anyio, "run", ask)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(probe.probe_installed(mute, settings))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert len({answer.backends[0].detail for answer in found}) == 1
    assert not any(support.available for answer in found for support in answer.backends)
    probe.probe_installed(mute, settings)
    assert len(asked) == 2, "who asks later asks again: it may start by then"


def test_a_backend_that_hangs_the_browser_takes_no_other_along(tmp_path, monkeypatch):
    """The switches for a GPU do, where there is none."""
    monkeypatch.setattr(probe, "BACKEND_SECONDS", 5.0)
    flags = ("--use-angle=vulkan", "--enable-features=Vulkan", "--disable-vulkan-surface")
    own = program(tmp_path, 'exec chromium "$@"')  # of this test alone: its answer is kept
    custom = (CustomBrowser(name="stuck", family="chrome", executable=own, flags=flags),)
    settings = Settings(rootdir=str(tmp_path), db="", custom=custom)
    (stuck,) = (b for b in discover(settings).installed if b.name == "stuck")
    found = probe.probe_installed(stuck, settings)
    webgpu, wasm = (next(b for b in found.backends if b.name == name) for name in ("webgpu", "wasm"))
    assert wasm.available
    if webgpu.available and not webgpu.adapter.software:
        pytest.skip(f"this machine has the GPU that these switches are for: {webgpu.adapter}")
    assert not webgpu.available
    assert webgpu.faulted
    assert "within 5 s; asked again after 1 h" in webgpu.detail
    assert known(stuck, settings, pins.default_cache()) == found, "the next start does not wait for it again"


def test_what_was_found_before_a_backend_took_the_browser_along_stands(tmp_path, monkeypatch):
    """Here it does not start a second time, either."""
    monkeypatch.setattr(probe, "BACKEND_SECONDS", 5.0)
    flags = ("--use-angle=vulkan", "--enable-features=Vulkan", "--disable-vulkan-surface")
    once = f'mkdir {tmp_path}/started && exec chromium "$@"\necho not again >&2; exit 3'
    custom = (CustomBrowser(name="once", family="chrome", executable=program(tmp_path, once), flags=flags),)
    settings = Settings(rootdir=str(tmp_path), db="", custom=custom)
    (browser,) = (b for b in discover(settings).installed if b.name == "once")
    found = {b.name: b for b in probe.probe_installed(browser, settings).backends}
    if found["webgpu"].available:
        pytest.skip("this machine has the GPU that these switches are for")
    assert found["wasm"].available
    assert "within 5 s" in found["webgpu"].detail
    assert "not again" in found["webnn"].detail, "another browser was asked"
    assert all(found[name].faulted for name in ("webgpu", "webnn", "webnn-gpu", "webnn-npu"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root's Firefox minds")
def test_a_firefox_of_roots_starts_in_a_home_of_another_users(fresh_bench, tmp_path, monkeypatch):
    """As in the container of a job that got its home from the host."""
    os.chown(tmp_path, 1001, 1001)
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(pins.default_cache().root))
    monkeypatch.setenv("HOME", str(tmp_path))
    bench = fresh_bench()
    assert (
        bench.load(make.affine(salt=5.0), "firefox", "wasm")({"x": np.zeros((4, 4), np.float32)})["y"].item(0)
        == 5
    )
