"""Models from the controller to a node that lacks them: asked for by name, sent by content hash, checked on arrival.

A node asks what a source is; the controller resolves it as it does for itself and answers with hashes; the node asks
for those that its cache lacks, and gets them in pieces, a few ahead of its acknowledgements. So one run has one model
whatever lies on its hosts, and a host needs neither network nor npm.

Messages are dicts of builtins over any link that keeps their order. From the node: ``ask`` (what a source is),
``send`` (a file), ``ack`` (of a piece). To the node: ``manifest``, ``refused``, ``piece``.
"""

from __future__ import annotations

import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool import errors
from pytest_browserpool.artefacts import pins, runtime
from pytest_browserpool.artefacts.cache import Cache, Stored
from pytest_browserpool.artefacts.pins import default_cache
from pytest_browserpool.errors import BrowserPoolError, DeadlineExceeded, SourceError
from pytest_browserpool.models.lock import LockFile
from pytest_browserpool.models.references import describe, parse
from pytest_browserpool.models.sources import ModelFile, identity, remembered_hash, resolve, resolve_file

if TYPE_CHECKING:
    from pytest_browserpool.config import OwnRuntime

Message = dict[str, Any]
Send = Callable[[Message], object]

KINDS_FROM_NODE = ("ask", "send", "ack")
KINDS_TO_NODE = ("manifest", "refused", "piece")

PIECE = 1 << 18
"""Bytes: what the scheduler sends in between waits at most for ``AHEAD`` of these."""
AHEAD = 8
"""Pieces under way without an acknowledgement: 2 MiB keep a link of 100 MB/s with 20 ms of round trip busy."""
PIECE_SECONDS = 60.0
"""For one piece, or its acknowledgement: a quarter of a mebibyte in a minute is no link to test over."""
ANSWER_SECONDS = 660.0
"""For the answer to ``ask``: the controller may have to fetch, which has its own deadline of 600 s."""


# -- the controller's side -----------------------------------------------------------------------------------


class Depot:
    """What nodes may ask the controller for. ``hear`` returns at once; threads of its own do the work."""

    def __init__(self, rootdir: Path, own_runtime: OwnRuntime | None = None) -> None:
        self._rootdir, self._own_runtime = rootdir, own_runtime
        self._offered: dict[str, Path] = {}
        """By hash: only what a source led to is ever sent."""
        self._acknowledged: dict[tuple[str, int], threading.Semaphore] = {}
        self.sent_bytes = 0

    def offer(self, path: Path) -> tuple[str, int]:
        """A file that may be asked for from now on: its hash and size."""
        _, sha256, size, _ = _described("", path)
        self._offered[sha256] = path
        return sha256, size

    def hear(self, node: str, message: Message, send: Send) -> None:
        """A message of ``node``; ``send`` reaches it. On any thread."""
        key = (node, int(message["id"]))
        if message["kind"] == "ack":
            permits = self._acknowledged.get(key)
            if permits is not None:
                permits.release()
        elif message["kind"] == "ask":
            self._begin(self._answer, message, send)
        else:
            self._acknowledged[key] = threading.Semaphore(AHEAD)
            self._begin(self._send, key, message["sha256"], send)

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        # a thread each: a node asks for one or two things at a time. Daemons: a fetch must not hold up the run's end
        threading.Thread(target=work, args=arguments, name="browserpool-shipping", daemon=True).start()

    def _answer(self, message: Message, send: Send) -> None:
        number = message["id"]
        try:
            label, files = self._resolved(message)
        except BrowserPoolError as error:
            told = [type(error).__name__, error.what, error.where, error.remedy]
            send({"kind": "refused", "id": number, "error": told})
            return
        except Exception as error:  # noqa: BLE001  a thread's exception would be lost, and the node would wait
            told = ["SourceError", f"{type(error).__name__}: {error}", "the controller", None]
            send({"kind": "refused", "id": number, "error": told})
            return
        for _, sha256, _, path in files:
            self._offered[sha256] = path
        plain = [[name, sha256, size] for name, sha256, size, _ in files]
        send({"kind": "manifest", "id": number, "label": label, "files": plain})

    def _resolved(self, message: Message) -> tuple[str, list[tuple[str, str, int, Path]]]:
        """Label, and of each file its name, hash, size, place; a model comes first, its data by name."""
        what, lock = message["what"], LockFile.of(self._rootdir)
        if what == "runtime":
            own = self._own_runtime
            directory = Path(own.directory) if own is not None else pins.runtime_dir()
            return "onnxruntime-web", [_described(p.name, p) for p in runtime.files(directory)]
        if what == "file":
            stored = resolve_file(message["source"], lock=lock, here=True)
            return message["source"], [("", stored.sha256, stored.size, stored.path)]
        source = Path(message["source"]) if what == "path" else message["source"]
        test_file = self._rootdir / message["test_file"] if message["test_file"] else None
        file = resolve(source, test_file=test_file, rootdir=self._rootdir, lock=lock, here=True)
        parts = [("", file.path), *file.external]
        return file.label, [_described(name, path) for name, path in parts]

    def _send(self, key: tuple[str, int], sha256: str, send: Send) -> None:
        number = key[1]
        permits = self._acknowledged[key]
        try:
            path = self._offered[sha256]
            with path.open("rb") as file:
                piece = file.read(PIECE)
                while True:
                    after = file.read(PIECE) if piece else b""
                    if not permits.acquire(timeout=PIECE_SECONDS):
                        return  # the node is gone or stuck; its own deadline ends its wait
                    if send({"kind": "piece", "id": number, "data": piece, "last": not after}) is False:
                        return
                    self.sent_bytes += len(piece)
                    if not after:
                        return
                    piece = after
        except (OSError, KeyError) as error:
            told = ["SourceError", f"{sha256} cannot be sent: {error!r}", "the controller", "run again"]
            send({"kind": "refused", "id": number, "error": told})
        finally:
            self._acknowledged.pop(key, None)


def _described(name: str, path: Path) -> tuple[str, str, int, Path]:
    return name, remembered_hash(path), path.stat().st_size, path


# -- the node's side -----------------------------------------------------------------------------------------


class Supplier:
    """Gets models of the controller's into this host's cache. Threads may use it at once."""

    def __init__(self, send: Send, rootdir: Path, cache: Cache | None = None) -> None:
        self._send, self._rootdir, self._cache = send, rootdir, cache or default_cache()
        self._numbers = itertools.count()
        self._answers: dict[int, queue.SimpleQueue[Message]] = {}

    def deliver(self, message: Message) -> None:
        """A message of the controller. Returns at once; on any thread."""
        answers = self._answers.get(int(message["id"]))
        if answers is not None:
            answers.put(message)

    def model(self, source: str | os.PathLike[str], test_file: Path | None) -> ModelFile:
        """The model that ``source`` is on the controller, in this host's cache.

        Raises:
            SourceError and others: as the controller's own ``resolve``. DeadlineExceeded: no answer.
        """
        told = self._ask_for(source, test_file)
        files = [(name, sha256, self.held(sha256, size)) for name, sha256, size in told["files"]]
        (_, sha256, model), *external = files
        return ModelFile(
            identity(sha256, {name: data for name, data, _ in external}),
            model.path,
            sum(stored.size for _, _, stored in files),
            describe(source),
            tuple((name, stored.path) for name, _, stored in external),
        )

    def identity(self, source: str | os.PathLike[str], test_file: Path | None) -> str:
        """What ``model`` would be called, without getting it."""
        (_, sha256, _), *external = self._ask_for(source, test_file)["files"]
        return identity(sha256, {name: data for name, data, _ in external})

    def file(self, source: str) -> Stored:
        """Any file by a remote reference, as ``resolve_file`` gives it on the controller."""
        ((_, sha256, size),) = self._ask("file", source, None)["files"]
        return self.held(sha256, size)

    def runtime(self, own: OwnRuntime | None = None) -> Path:
        """onnxruntime-web as the controller has it, in this host's cache: the pinned one, or the run's own build.

        Raises:
            SourceError: the controller's files are no longer those that the run began with, or cannot be sent.
        """
        pin = runtime.pin_of(own)
        held = pins.held(pin, self._cache)
        if held is not None:
            return held
        files = self._ask("runtime", "", None)["files"]
        if own is not None and runtime.identity((name, sha256) for name, sha256, _ in files) != own.sha256:
            raise SourceError(
                f"onnxruntime-web {own.label} has changed since the run began",
                where=f"{own.directory} (on the controller)",
                remedy="build into another directory while a run is on, and run again",
            )
        pieces = {name: (sha256, functools.partial(self._pieces, sha256)) for name, sha256, _ in files}
        return pins.adopt(pin, pieces, self._cache)

    def _ask_for(self, source: str | os.PathLike[str], test_file: Path | None) -> Message:
        written = os.fspath(source)
        if os.path.isabs(written) and Path(written).is_relative_to(self._rootdir):
            written, test_file = Path(written).relative_to(self._rootdir).as_posix(), None
        what = "path" if isinstance(source, os.PathLike) else "model"
        return self._ask(what, written, self._relative(test_file))

    def _relative(self, test_file: Path | None) -> str | None:
        if test_file is None:
            return None
        inside = test_file.is_relative_to(self._rootdir)
        return test_file.relative_to(self._rootdir).as_posix() if inside else str(test_file)

    def held(self, sha256: str, size: int) -> Stored:
        """The file of that hash; nodes of one host get it once."""
        known = self._cache.model(sha256)
        if known is not None:
            return known
        with self._cache.lock(f"ship {sha256}"):
            known = self._cache.model(sha256)
            where = f"{size} bytes from the controller"
            return known or self._cache.add(self._pieces(sha256), expected=sha256, where=where)

    def _ask(self, what: str, source: str, test_file: str | None) -> Message:
        asked = {"kind": "ask", "what": what, "source": source, "test_file": test_file}
        answers = self._exchange(asked, ANSWER_SECONDS)
        with answers:
            return answers.next(f"what {source or what} is")

    def _pieces(self, sha256: str) -> Iterator[bytes]:
        with self._exchange({"kind": "send", "sha256": sha256}, PIECE_SECONDS) as answers:
            while True:
                told = answers.next(f"a piece of {sha256}")
                self._send({"kind": "ack", "id": told["id"]})
                yield told["data"]
                if told["last"]:
                    return

    def _exchange(self, message: Message, seconds: float) -> _Exchange:
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        self._send(message | {"id": number})
        return _Exchange(answers, seconds, lambda: self._answers.pop(number, None))


class _Exchange:
    """The answers to one message, each within a deadline."""

    def __init__(
        self, answers: queue.SimpleQueue[Message], seconds: float, close: Callable[[], object]
    ) -> None:
        self._answers, self._seconds, self._close = answers, seconds, close

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def next(self, what: str) -> Message:
        try:
            told = self._answers.get(timeout=self._seconds)
        except queue.Empty:
            raise _gone(f"it did not say {what} within {self._seconds:g} s") from None
        if told["kind"] == "refused":
            name, said, where, remedy = told["error"]
            found = getattr(errors, name, SourceError)
            raise found(
                said, where=f"{where} (on the controller)" if where else "the controller", remedy=remedy
            )
        return told


def _gone(what: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"the controller is out of reach: {what}", remedy="see whether the link is up")


# -- what a node does with a source --------------------------------------------------------------------------


class Elsewhere:
    """Resolves sources on a node that has its own file system: ``sources.resolve`` asks it first."""

    def __init__(self, supplier: Supplier, rootdir: Path) -> None:
        self.supplier, self._rootdir = supplier, rootdir

    def resolve(
        self, source: str | os.PathLike[str], test_file: Path | None, local: Callable[[], ModelFile]
    ) -> ModelFile:
        """The controller's model. A path that only this host has, or that lies outside of the suite and is here, is
        this host's: a test may have written it.

        Raises:
            SourceError and others: neither has it, or it is not what was pinned.
        """
        reference = parse(source) if isinstance(source, str) else None
        if reference is not None and reference.remote:
            return self.supplier.model(source, test_file)
        written = Path(reference.path if reference is not None else source).expanduser()
        here: ModelFile | SourceError
        try:
            here = local()
        except SourceError as error:
            here = error
        if (
            isinstance(here, ModelFile)
            and written.is_absolute()
            and not written.is_relative_to(self._rootdir)
        ):
            return here
        try:
            there = self.supplier.identity(source, test_file)
        except SourceError:
            if isinstance(here, ModelFile):
                return here
            raise
        if isinstance(here, ModelFile) and here.sha256 == there:
            return here
        if isinstance(here, ModelFile):
            import warnings

            warnings.warn(f"{here.path} is not the controller's, whose model is used", stacklevel=2)
        return self.supplier.model(source, test_file)

    def file(self, source: str) -> Stored:
        """Any file by a remote reference, as the controller pins it."""
        return self.supplier.file(source)
