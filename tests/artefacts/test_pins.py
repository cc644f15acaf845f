"""Our own downloads: the real packages, unpacked once, refused when they are not the pinned ones."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from artefact_support import tarball

from pytest_browserpool.artefacts import charts, fetch, pins
from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.errors import HashMismatch


def test_the_runtime_has_every_file_that_its_bundles_ask_for() -> None:
    directory = pins.runtime_dir()
    assert sorted(p.name for p in directory.iterdir()) == sorted(pins.RUNTIME_FILES)
    for bundle in directory.glob("ort.*.mjs"):
        text = bundle.read_text(encoding="utf-8", errors="replace")
        wanted = {n for n in pins.RUNTIME_FILES if n.startswith("ort-wasm") and f'"{n}"' in text}
        assert any(n.endswith(".wasm") for n in wanted), bundle.name
        assert pins.RUNTIME.version in text
    assert pins.damaged(pins.RUNTIME) == ()


def test_the_chart_library_comes_with_its_licences_and_can_stand_in_a_page() -> None:
    charts.fetch()
    source = charts.source()
    assert source is not None
    assert source.count("Permission to use, copy, modify, and/or distribute this software") == 2
    assert "</script" not in source
    assert len(source) < 600_000


def test_without_the_chart_library_there_is_none_and_nothing_is_fetched(cache: Cache) -> None:
    assert not charts.held(cache)
    assert charts.source(cache) is None


@pytest.mark.skipif(not pins.shell_supported(), reason=pins.shell_unsupported())
def test_the_headless_shell_is_complete_and_runs() -> None:
    executable = pins.headless_shell()
    assert {"libEGL.so", "libGLESv2.so", "libvk_swiftshader.so"} <= {
        p.name for p in executable.parent.iterdir()
    }
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert "147." in said.stdout


def offer(cache: Cache, pin: pins.Pin, content: dict[str, bytes]) -> Path:
    """Put a tarball where npm would have put it."""
    directory = fetch.package_directory(cache, "npm", pin.name, pin.version)
    directory.mkdir(parents=True)
    return tarball(directory / "package.tgz", content)


def test_another_tarball_than_the_pinned_one_is_refused_and_not_kept(cache: Cache) -> None:
    tampered = offer(cache, pins.RUNTIME, {"package/dist/ort.all.bundle.min.mjs": b"evil()"})
    with pytest.raises(HashMismatch, match="onnxruntime-web"):
        pins.runtime_dir(cache)
    assert not tampered.exists()
    assert pins.held(pins.RUNTIME, cache) is None


def test_a_missing_or_shortened_file_is_seen_and_the_package_unpacked_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {f"package/dist/{name}": name.encode() for name in pins.RUNTIME_FILES}
    packed = offer(cache, pins.RUNTIME, content)
    pin = dataclasses.replace(pins.RUNTIME, **pins.hashes_of(packed))
    kept = packed.read_bytes()
    monkeypatch.setattr(pins, "RUNTIME", pin)
    directory = pins.runtime_dir(cache)
    assert pins.held(pin, cache) == directory
    (directory / pins.RUNTIME_FILES[0]).write_bytes(b"")
    assert pins.held(pin, cache) is None
    packed.parent.mkdir(parents=True, exist_ok=True)
    packed.write_bytes(kept)
    assert pins.runtime_dir(cache) == directory
    assert (directory / pins.RUNTIME_FILES[0]).read_bytes() == pins.RUNTIME_FILES[0].encode()


@pytest.mark.parametrize("record", ['{"files": 5}', '{"files": {"a": 1}}', '{"files": {"a": [1e999, "00"]}}'])
def test_a_record_that_is_not_ours_counts_as_none(cache: Cache, record: str) -> None:
    path = cache.root / "meta" / f"{pins.directory_of(pins.RUNTIME, cache).name}.json"
    path.parent.mkdir(parents=True)
    path.write_text(record)
    assert pins.held(pins.RUNTIME, cache) is None
    assert pins.damaged(pins.RUNTIME, cache) == ()


def test_silent_damage_is_found_on_request_and_dropped(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = offer(cache, pins.RUNTIME, {f"package/dist/{n}": n.encode() for n in pins.RUNTIME_FILES})
    pin = dataclasses.replace(pins.RUNTIME, **pins.hashes_of(packed))
    monkeypatch.setattr(pins, "RUNTIME", pin)
    directory = pins.runtime_dir(cache)
    name = pins.RUNTIME_FILES[0]
    (directory / name).write_bytes(name.upper().encode())
    assert pins.held(pin, cache) == directory
    assert pins.damaged(pin, cache) == (name,)
    assert pins.drop_damaged(pin, cache) == (name,)
    assert pins.held(pin, cache) is None
