"""What is kept of compiled code, by the files alone; tests/browser/test_code_cache_real.py has the browsers."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from pytest_browserpool.artefacts.cache import ENVIRONMENT_VARIABLE, Cache
from pytest_browserpool.browsers import code_cache
from pytest_browserpool.browsers.code_cache import CODE, KEEP_SECONDS, LEAST_BYTES, CodeCache
from pytest_browserpool.config import Settings

MB = 1 << 20


def profile(tmp_path: Path, *sizes: int, name: str = "profile") -> Path:
    default = tmp_path / name / "Default"
    (default / CODE).mkdir(parents=True)
    (default / CODE / "index").write_bytes(b"index")
    for number, size in enumerate(sizes):
        (default / CODE / f"{number}_0").write_bytes(bytes(size))
    (default / "Cache" / "Cache_Data").mkdir(parents=True)
    (default / "Cache" / "Cache_Data" / "wasm_0").write_bytes(b"the response that it was compiled from")
    (default / "Cookies").write_bytes(b"not ours to keep")
    return tmp_path / name


@pytest.fixture
def code(tmp_path):
    return CodeCache(Cache(tmp_path / "cache"))


def test_kept_code_is_the_next_one_s_seed_and_nothing_else_of_the_profile(code, tmp_path):
    assert code.seed("chromium-1") is None
    assert code.size("chromium-1") == 0
    code.keep("chromium-1", profile(tmp_path, 3 * MB))
    seed = code.seed("chromium-1")
    found = sorted(str(p.relative_to(seed)) for p in seed.rglob("*") if p.is_file())
    assert found == ["Cache/Cache_Data/wasm_0", "Code Cache/wasm/0_0", "Code Cache/wasm/index"]
    assert code.seed("chromium-2") is None
    assert code.size("chromium-1") == sum((seed / name).stat().st_size for name in found)


def test_little_code_is_not_worth_a_copy_and_of_two_the_larger_is_used(code, tmp_path):
    code.keep("b", profile(tmp_path, LEAST_BYTES - 1, name="little"))
    assert code.seed("b") is None
    code.keep("b", profile(tmp_path, 4 * MB, 3 * MB, name="first"))
    first = code.seed("b")
    assert first.name == str(4 * MB)
    code.keep("b", profile(tmp_path, 3 * MB, 2 * MB, name="less"))
    assert [p.name for p in first.parent.iterdir()] == [str(4 * MB)]
    code.keep("b", profile(tmp_path, 5 * MB, name="more"))
    assert code.seed("b").name == str(5 * MB)


def test_a_profile_without_code_or_that_is_gone_is_no_harm(code, tmp_path):
    code.keep("b", tmp_path / "never")
    code.keep("b", profile(tmp_path))
    whole = profile(tmp_path, 3 * MB, name="half")
    (whole / "Default" / "Cache" / "Cache_Data" / "wasm_0").unlink()
    (whole / "Default" / "Cache" / "Cache_Data").rmdir()
    (whole / "Default" / "Cache").rmdir()  # went while it was copied
    code.keep("b", whole)
    assert code.seed("b") is None


def test_a_cache_that_cannot_be_written_costs_the_code_and_nothing_more(tmp_path):
    root = tmp_path / "a-file"
    root.write_text("no directory")
    code = CodeCache(Cache(root))
    code.keep("b", profile(tmp_path, 3 * MB))
    assert code.seed("b") is None


def test_what_is_old_goes_and_what_was_replaced_goes_later(code, tmp_path):
    code.keep("old", profile(tmp_path, 3 * MB, name="1"))
    code.keep("b", profile(tmp_path, 3 * MB, name="2"))
    replaced = code.seed("b")
    past = time.time() - KEEP_SECONDS - 60
    os.utime(code.seed("old"), (past, past))
    code.keep("b", profile(tmp_path, 4 * MB, name="3"))
    assert code.seed("old") is None
    assert replaced.exists(), "a launch may be copying it"
    hour = time.time() - 2 * code_cache.IN_USE_SECONDS
    os.utime(replaced, (hour, hour))
    code.keep("b", profile(tmp_path, 5 * MB, name="4"))
    assert not replaced.exists()
    assert code.seed("b").name == str(5 * MB)


def test_the_path_stays_until_a_file_of_the_runtime_changes(code, tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "ort.wasm").write_bytes(b"one")
    (runtime / "README.md").write_text("not served")
    path = code.secret(runtime)
    assert len(path) == 32
    assert CodeCache(Cache(tmp_path / "cache")).secret(runtime) == path
    (runtime / "README.md").write_text("still not served")
    assert code.secret(runtime) == path
    (runtime / "ort.wasm").write_bytes(b"other")
    assert code.secret(runtime) != path


def test_the_path_cannot_be_told_from_the_files(tmp_path):
    """Another user of the machine has the same files, not the same path."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "ort.wasm").write_bytes(b"one")
    mine, other = (CodeCache(Cache(tmp_path / name)) for name in ("mine", "other"))
    assert mine.secret(runtime) != other.secret(runtime)
    assert stat.S_IMODE((tmp_path / "mine" / "compiled" / "salt").stat().st_mode) == 0o600


def test_switched_off_or_without_a_place_the_path_is_of_this_run_only(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "runtime").mkdir()
    on = [code_cache.opened(Settings(rootdir=".", db=""), tmp_path / "runtime") for _ in range(2)]
    assert on[0] == on[1]
    assert on[0][0] is not None
    off = [
        code_cache.opened(Settings(rootdir=".", db="", code_cache=False), tmp_path / "runtime")
        for _ in range(2)
    ]
    assert [cache for cache, _ in off] == [None, None]
    assert off[0][1] != off[1][1]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "file"))
    assert code_cache.opened(Settings(rootdir=".", db=""), tmp_path / "runtime")[0] is None
