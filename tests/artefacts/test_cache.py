"""The cache: content-addressed, checked, atomic, shared by processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_browserpool.artefacts.cache import Cache, cache_root
from pytest_browserpool.errors import DeadlineExceeded, HashMismatch, SourceError


def test_content_is_stored_under_its_hash(cache: Cache) -> None:
    stored = cache.add([b"one ", b"two"])
    assert stored.sha256 == hashlib.sha256(b"one two").hexdigest()
    assert stored.path == cache.root / "models" / stored.sha256
    assert stored.path.read_bytes() == b"one two"
    assert cache.model(stored.sha256) == stored
    assert cache.models() == {stored.sha256}


def test_other_bytes_than_pinned_are_refused_and_not_kept(cache: Cache) -> None:
    pinned = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(HashMismatch) as caught:
        cache.add([b"wrong"], expected=pinned, where="pypi:x==1/m.onnx")
    assert pinned in str(caught.value)
    assert hashlib.sha256(b"wrong").hexdigest() in str(caught.value)
    assert "pypi:x==1/m.onnx" in str(caught.value)
    assert cache.models() == frozenset()
    assert list((cache.root / "tmp").iterdir()) == []


def test_a_source_that_breaks_half_way_leaves_nothing(cache: Cache) -> None:
    def broken():
        yield b"half"
        raise SourceError("the line went dead")

    with pytest.raises(SourceError, match="went dead"):
        cache.add(broken())
    assert cache.models() == frozenset()
    assert list((cache.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"short", b"longer than before"])
def test_a_file_of_another_size_is_not_taken(cache: Cache, damage: bytes) -> None:
    stored = cache.add([b"content"])
    stored.path.write_bytes(damage)
    assert cache.model(stored.sha256) is None


def test_damage_of_the_same_size_is_found_by_verify_and_dropped(cache: Cache) -> None:
    good, bad = cache.add([b"good"]), cache.add([b"fine"])
    bad.path.write_bytes(b"f1ne")
    assert cache.verify() == (bad.sha256,)
    assert cache.drop_damaged() == (bad.sha256,)
    assert cache.models() == {good.sha256}


def test_a_lost_size_record_is_made_again_from_a_full_hash(cache: Cache) -> None:
    stored = cache.add([b"content"])
    meta = cache.root / "meta" / f"{stored.sha256}.json"
    meta.write_text("{damaged")
    assert cache.model(stored.sha256) == stored
    assert b"size" in meta.read_bytes()
    meta.unlink()
    stored.path.write_bytes(b"c0ntent")
    assert cache.model(stored.sha256) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "None", "ABC"])
def test_only_a_hash_names_a_model(cache: Cache, name: str) -> None:
    assert cache.model(name) is None


def test_a_killed_writer_leaves_no_model_and_its_rest_is_swept(cache: Cache) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pytest_browserpool.artefacts.cache import Cache\n"
        "def slow():\n"
        "    yield b'x' * 4096\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        "Cache(Path(sys.argv[1])).add(slow())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, cache.root], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.kill()
    assert cache.models() == frozenset()
    (rest,) = (cache.root / "tmp").iterdir()
    old = time.time() - 2 * 86400
    os.utime(rest, (old, old))
    assert cache.add([b"later"]).path.read_bytes() == b"later"
    assert not rest.exists()


def test_a_lock_is_held_against_other_processes_and_freed_by_their_death(cache: Cache) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pytest_browserpool.artefacts.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).lock('a source'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, cache.root], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DeadlineExceeded, match="'a source'"), cache.lock("a source", timeout=0.2):
            pass
        with cache.lock("another", timeout=0.2):
            pass
        process.kill()
    with cache.lock("a source", timeout=5):
        pass


def test_a_cache_that_cannot_be_written_says_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceError) as caught:
        Cache(tmp_path / "file").add([b"x"])
    assert str(tmp_path / "file") in str(caught.value)
    assert "BROWSERPOOL_CACHE" in str(caught.value)


def test_the_place_follows_xdg_and_the_override(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BROWSERPOOL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "browserpool"
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()
