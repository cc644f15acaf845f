"""A build of onnxruntime-web that a user gives: what is examined before anything starts, and what tells builds apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_browserpool.artefacts import pins, runtime
from pytest_browserpool.config import OwnRuntime, Settings
from pytest_browserpool.errors import ConfigurationError

WASM = "ort-wasm-simd-threaded.own.wasm"
BUNDLE = f'/*!\n * ONNX Runtime Web v1.29.0\n */\nconst load = () => fetch("{WASM}");\n'


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """An npm package with a small ``dist/``: what pages load, and what they do not."""
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for name in runtime.BUNDLES:
        (dist / name).write_text(BUNDLE)
    (dist / WASM).write_bytes(b"\0asm one")
    (dist / "ort.all.js").write_text("for others")
    (tmp_path / "package" / "package.json").write_text(
        json.dumps({"name": "onnxruntime-web", "version": "1.28.5"})
    )
    return tmp_path / "package"


def refusal(directory: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        runtime.examine(directory, "the option")
    assert caught.value.where == "the option"
    assert "npm package onnxruntime-web (1.21.0 or newer)" in str(caught.value.remedy)
    return caught.value


def test_the_package_and_its_dist_are_the_same_build(build: Path) -> None:
    found = runtime.examine(build, "")
    assert found == runtime.examine(build / "dist", "")
    assert Path(found.directory) == (build / "dist").resolve()
    assert found.version == "1.29.0", "the bundle is what runs, whatever the package says"
    assert found.label == f"1.29.0 (own, {found.sha256[:8]})"


def test_every_byte_that_pages_may_load_is_in_the_identity_and_no_other(build: Path) -> None:
    before = runtime.examine(build, "").sha256
    (build / "dist" / "ort.all.js").write_text("changed")
    assert runtime.examine(build, "").sha256 == before
    (build / "dist" / WASM).write_bytes(b"\0asm two")
    changed = runtime.examine(build, "").sha256
    (build / "dist" / WASM).write_bytes(b"\0asm one")
    assert runtime.examine(build, "").sha256 == before != changed
    (build / "dist" / "chunk.mjs").write_text("")
    assert runtime.examine(build, "").sha256 not in (before, changed)


@pytest.mark.parametrize("lacking", [*runtime.BUNDLES, WASM])
def test_each_missing_file_is_named(build: Path, lacking: str) -> None:
    (build / "dist" / lacking).unlink()
    assert f"{(build / 'dist').resolve()} has no {lacking}, which the pages load" == refusal(build).what


def test_a_bundle_for_wasm_alone_counts_only_with_its_webassembly(build: Path) -> None:
    dist = build / "dist"
    assert not runtime.has_small(dist)
    (dist / runtime.SMALL).write_text('fetch("ort-small.wasm")')
    assert not runtime.has_small(dist)
    (dist / "ort-small.wasm").write_bytes(b"\0asm")
    assert runtime.has_small(dist)
    assert runtime.has_small(pins.runtime_dir())


def test_a_build_that_names_no_webassembly_must_still_have_one(build: Path) -> None:
    for name in runtime.BUNDLES:
        (build / "dist" / name).write_text("export {}")
    assert runtime.examine(build, "").version == "1.28.5"
    (build / "dist" / WASM).unlink()
    assert "no .wasm file" in refusal(build).what


def test_no_directory_is_no_build(build: Path) -> None:
    assert refusal(build / "absent").what == f"{build / 'absent'} is not there"
    assert refusal(build / "package.json").what.endswith("is a file, not a directory")
    (build / "empty").mkdir()
    assert all(f"no {name}" in refusal(build / "empty").what for name in runtime.BUNDLES)


def test_a_build_without_any_version_is_used_and_says_so(build: Path) -> None:
    (build / "package.json").write_text(json.dumps({"name": "mine", "version": "7.0.0"}))
    (build / "dist" / runtime.BUNDLES[0]).write_text("export {}")
    assert runtime.examine(build, "").label.startswith("unknown (own, ")
    (build / "package.json").unlink()
    assert runtime.examine(build, "").version == "unknown"


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("1.20.1", False),
        ("1.9.0", False),
        ("1.21.0", True),
        ("1.31.0-dev.20261101-ab12", True),
        ("2.0.0", True),
    ],
)
def test_releases_that_hang_pages_are_refused(build: Path, version: str, taken: bool) -> None:
    for name in runtime.BUNDLES:
        (build / "dist" / name).write_text(BUNDLE.replace("1.29.0", version))
    if taken:
        assert runtime.examine(build, "").version == version
    else:
        assert f"is onnxruntime-web {version}, whose sessions on WebNN" in refusal(build).what


def test_the_bundles_are_those_that_pages_import() -> None:
    script = Path(runtime.__file__).parents[1] / "browsers" / "page" / "models.js"
    line = next(line for line in script.read_text().splitlines() if line.startswith("const BUNDLES"))
    assert tuple(re.findall(r'"([^"]+\.mjs)"', line)) == (*runtime.BUNDLES, runtime.SMALL)


def test_the_pinned_one_would_pass_and_a_copy_of_it_has_the_same_identity(tmp_path: Path) -> None:
    found = runtime.examine(pins.runtime_dir(), "")
    assert found.version == pins.RUNTIME.version
    (tmp_path / "dist").symlink_to(pins.runtime_dir())
    assert runtime.examine(tmp_path, "").sha256 == found.sha256


def test_settings_travel_with_the_build_and_say_what_answers_depend_on(tmp_path: Path) -> None:
    pinned = Settings(rootdir=str(tmp_path), db=str(tmp_path / "h"))
    assert (runtime.label_of(pinned), runtime.fingerprint_of(pinned)) == (pins.RUNTIME.version,) * 2
    own = OwnRuntime(directory=str(tmp_path), version="1.29.0", sha256="ab" * 32)
    settings = Settings.from_plain(
        Settings(rootdir=str(tmp_path), db=str(tmp_path / "h"), own_runtime=own).to_plain()
    )
    assert settings.own_runtime == own
    assert runtime.label_of(settings) == "1.29.0 (own, abababab)"
    assert runtime.fingerprint_of(settings) == "ab" * 32
    assert runtime.directory_of(settings) == tmp_path
