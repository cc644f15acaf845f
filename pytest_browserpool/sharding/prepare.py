"""From a model's file to checked shards on disk: read, cut, write, compare natively; kept for later runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool.contents import locations
from pytest_browserpool.errors import DeadlineExceeded, InvalidModel, ShardingError
from pytest_browserpool.sharding import native
from pytest_browserpool.sharding.keeping import MANIFEST, NEW, tidy, used
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host, Plan
from pytest_browserpool.sharding.read import Source
from pytest_browserpool.sharding.split import SegmentFile, write_segments

if TYPE_CHECKING:
    from pytest_browserpool.sharding.native import Tensors

FORM = 2
"""Number of the form of what is kept: folders that another version wrote are not used. The first one's names left out data
files of branches, constants and functions, so its cuts may have other weights."""

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another process that writes the same shards: a model of 2 GiB takes about a minute."""


@dataclass(frozen=True, kw_only=True)
class Sharded:
    """A model cut into shards that are together equal to it, bit for bit in native onnxruntime."""

    plan: Plan
    files: tuple[SegmentFile, ...]
    outputs: tuple[str, ...]
    """The whole model's outputs, in its order."""


def read_for_sharding(
    path: Path,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    resident: Sequence[str] = (),
    feeds: Tensors | None = None,
) -> Source:
    """The model's graph with the sizes that one native run has.

    ``input_shapes`` fixes open dimensions for the estimate; one input that has a symbolic dimension fixes it
    for all. ``resident`` names inputs and outputs that stay in the page from call to call. ``feeds`` are the inputs of
    that run; made up where None.
    """
    return native.read_observed(path, input_shapes, resident=resident, feeds=feeds)


def gather(path: Path, external: Mapping[str, Path], folder: Path) -> Path:
    """A model and its external data in one folder, as ONNX wants them: ``path`` itself where they are, else
    links.

    A cache keeps files by their hash, so the names that the model uses are not those of the files.
    ``external`` has the name as the model writes it, and where the file lies. Raises ``InvalidModel`` for a
    name that leaves the folder.
    """
    if all((path.parent / name).is_file() for name in external):
        return path
    names = "|".join(f"{name}={file}" for name, file in sorted(external.items()))
    place = folder / f"whole-{hashlib.sha256(f'{path}|{names}'.encode()).hexdigest()[:32]}"
    with _locked(folder, place.name):
        place.mkdir(parents=True, exist_ok=True)
        for name, origin in {"model.onnx": path, **external}.items():
            target = place / name
            if not target.resolve().is_relative_to(place.resolve()):
                raise InvalidModel(
                    f"external data {name!r} lies outside the model's folder",
                    remedy="put the data beside the model",
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                _link(origin, target)
    return place / "model.onnx"


def _link(origin: Path, target: Path) -> None:
    """A hard link, because onnxruntime refuses links that lead outside; a copy on another file system."""
    try:
        os.link(origin, target)
    except OSError:
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as aside:
            shutil.copyfile(origin, aside.name)
        os.replace(aside.name, target)


def prepare(
    source: Source,
    *,
    shards: int,
    hosts: Sequence[Host],
    folder: Path,
    strategy: str = "layer_balanced",
    feeds: Tensors | None = None,
) -> Sharded:
    """Cut ``source`` for ``hosts`` and write the shards below ``folder``, which may be shared by processes.

    The same cut of the same model is written and checked once: a later call finds it by its hash. ``keeping`` says for
    how long. ``feeds``
    are the inputs of the check; made up where None. Raises ``ShardingError`` where the
    model cannot be cut so, or where the shards are not equal to the whole; ``ConfigurationError`` without
    onnxruntime.
    """
    plan = partition(source.graph, hosts, shards, strategy)
    place = folder / f"{_identity(source, plan)}-{FORM}"
    if (kept := _kept(place, plan, source)) is not None:
        return kept
    with _locked(folder, place.name):
        if (kept := _kept(place, plan, source)) is not None:  # another process was first
            return kept
        with tempfile.TemporaryDirectory(dir=folder, prefix=NEW) as new:
            target = Path(new) / "shards"
            files = write_segments(source, plan, target)
            native.check(source, files, feeds).require()
            (target / MANIFEST).write_text(json.dumps([_relative(f) for f in files]), encoding="utf-8")
            with contextlib.suppress(FileNotFoundError):
                place.rename(Path(new) / "damaged")
            target.rename(place)
    tidy(folder)
    if (kept := _kept(place, plan, source)) is None:
        raise ShardingError(f"the shards cannot be kept in {place}", remedy="check the folder and its disk")
    return kept


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Only one process writes these shards; the others wait for it and take what it wrote."""
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.lock"
    try:
        with filelock.FileLock(path, timeout=LOCK_TIMEOUT):
            yield
    except filelock.Timeout as error:
        raise DeadlineExceeded(
            f"another process has been writing the shards {name} for {LOCK_TIMEOUT:g} s",
            where=str(path),
            remedy="end that process; the lock is freed with it",
        ) from error


def _identity(source: Source, plan: Plan) -> str:
    """A hash of the model's content and of the nodes of each segment: not of hosts, which do not change the
    files.
    """
    digest = hashlib.sha256(source.model.SerializeToString())
    for segment in plan.segments:
        digest.update(json.dumps([segment.nodes, segment.inputs, segment.outputs]).encode())
    for location in sorted(_data_files(source)):
        with location.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _data_files(source: Source) -> set[Path]:
    if source.folder is None:
        return set()
    return {path for name in locations(source.model) if (path := source.folder / name).is_file()}


def _relative(file: SegmentFile) -> dict[str, Any]:
    return replace(file, path=Path(file.path).name, data=Path(file.data).name if file.data else "").to_plain()


def _kept(place: Path, plan: Plan, source: Source) -> Sharded | None:
    """The shards in ``place`` if they are whole: all files there, with the sizes that were written."""
    try:
        told = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        files = tuple(SegmentFile.from_plain(entry) for entry in told)
        files = tuple(
            replace(f, path=str(place / f.path), data=str(place / f.data) if f.data else "", shard=s.shard)
            for f, s in zip(files, plan.segments, strict=True)
        )
        sizes = [sum(Path(p).stat().st_size for p in (f.path, f.data) if p) for f in files]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # JSON of another form too
        return None
    if sizes != [f.bytes for f in files]:
        return None
    used(place)
    return Sharded(plan=plan, files=files, outputs=source.graph.outputs)
