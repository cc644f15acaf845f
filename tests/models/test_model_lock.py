"""The lock file: stable text, shared by processes, never half written, read-only respected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.errors import ConfigurationError
from pytest_browserpool.models.lock import Locked, LockFile, LockFileWarning

ONE, TWO = Locked("11" * 32, 10), Locked("22" * 32, 20, {"m.data": "33" * 32})
THREE = Locked("44" * 32, 30)


def test_entries_come_back_and_the_order_of_writing_does_not_show(cache: Cache, tmp_path: Path) -> None:
    forth, back = LockFile(tmp_path / "forth"), LockFile(tmp_path / "back")
    for source, entry in (("a", ONE), ("b", TWO)):
        forth.record(source, entry)
    for source, entry in (("b", TWO), ("a", ONE)):
        back.record(source, entry)
    assert forth.entries() == {"a": ONE, "b": TWO}
    assert forth.path.read_text() == back.path.read_text()
    assert forth.path.read_text().endswith("}\n")


def test_no_file_is_no_entries(cache: Cache, lock: LockFile) -> None:
    assert lock.entries() == {}
    assert lock.get("x") is None
    assert not lock.path.exists()


def test_the_same_entry_again_does_not_touch_the_file(cache: Cache, lock: LockFile) -> None:
    lock.record("a", ONE)
    before = lock.path.stat().st_mtime_ns, lock.path.stat().st_ino
    lock.record("a", ONE)
    assert (lock.path.stat().st_mtime_ns, lock.path.stat().st_ino) == before


def test_processes_writing_at_once_lose_nothing(cache: Cache, lock: LockFile) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_browserpool.models.lock import Locked, LockFile\n"
        "for i in range(10):\n"
        "    LockFile(Path(sys.argv[1])).record(f'{sys.argv[2]}-{i}', Locked('ab' * 32, i))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, lock.path, str(n)]) for n in range(4)]
    assert [p.wait(timeout=60) for p in processes] == [0] * 4
    assert sorted(lock.entries()) == sorted(f"{n}-{i}" for n in range(4) for i in range(10))
    assert [p.name for p in lock.path.parent.iterdir()] == [lock.path.name]


def test_a_read_only_file_is_left_alone_with_a_line_that_says_the_hash(cache: Cache, lock: LockFile) -> None:
    lock.record("a", ONE)
    lock.path.chmod(0o444)
    before = lock.path.read_text()
    with pytest.warns(LockFileWarning, match=rf"read-only.*'b' stays unpinned.*{THREE.sha256}"):
        lock.record("b", THREE)
    with pytest.warns(
        LockFileWarning, match="external data of 'c' stay unpinned; make that place writable once"
    ):
        lock.record("c", TWO)
    assert lock.path.read_text() == before


def test_a_directory_that_is_gone_is_a_warning_too(cache: Cache, tmp_path: Path) -> None:
    with pytest.warns(LockFileWarning, match="cannot be written"):
        LockFile(tmp_path / "gone" / "browserpool.lock").record("a", ONE)


def test_a_cache_that_cannot_be_written_is_a_warning_too(lock: LockFile, tmp_path: Path) -> None:
    """An image's cache is often read-only; a file stands where its directories would be, which stops root too."""
    (tmp_path / "file").touch()
    with pytest.warns(LockFileWarning, match=rf"cache directory .*{tmp_path / 'file'}.*'a' stays unpinned"):
        LockFile(lock.path, cache=Cache(tmp_path / "file")).record("a", ONE)
    assert not lock.path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"version": 2, "models": {}}',
        '{"version": 1, "models": {"a": {}}}',
        '{"version": 1, "models": []}',
        '{"version": 1, "models": {"a": {"sha256": "11", "size": 1e999}}}',
        '{"version": 1, "models": {"a": {"sha256": "11", "size": 1, "external": ["m.data"]}}}',
        "[" * 100_000,
        "\udce9",  # in the file a byte that is no UTF-8
    ],
)
def test_a_file_that_is_not_ours_is_refused_with_its_place(cache: Cache, lock: LockFile, text: str) -> None:
    lock.path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError) as caught:
        lock.entries()
    assert str(lock.path) in str(caught.value)
    assert lock.path.read_bytes() == text.encode(errors="surrogateescape")


def test_the_project_s_own_lock_file_is_in_the_form_that_we_write() -> None:
    path = Path(__file__).parents[2] / "browserpool.lock"
    entries = LockFile(path).entries()
    models = {source: entry.to_json() for source, entry in sorted(entries.items())}
    assert json.loads(path.read_text()) == {"version": 1, "models": models}
    assert list(json.loads(path.read_text())["models"]) == sorted(entries)
