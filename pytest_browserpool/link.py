"""The link between controller and node: one execnet channel beside xdist's own, and what travels over it.

Messages are dicts of builtins with a ``kind``. From the node: ``capabilities`` (before its collection is
reported),
``needs``, ``started``, ``beat``, ``record`` (a row of the history), ``event`` (a placement event). To the
node: ``run``
(a test, by its index, with its browser and backend), ``prewarm``, ``retire``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from pytest_browserpool import wire
from pytest_browserpool.config import Settings, did_you_mean
from pytest_browserpool.keywords import Words

if TYPE_CHECKING:
    from execnet import Channel, Gateway

INPUT = "browserpool"
EXIT = "browserpool_exit"
"""In a node's ``workeroutput``: the status that ``pytest.exit()`` asked for there."""
"""Key in xdist's ``workerinput``."""

PEER = "peer"
"""Kind of the messages between nodes, which the controller hands on without reading them: ``to`` names the node that they
are for, and becomes ``from`` (``node.peers``, ``switchboard``)."""

CONTROLLER = ""
"""``to`` and ``from`` where it is the controller itself."""

HEARTBEAT = 2.0
"""Seconds between beats of a node: cheap beside a test, and several fit into the shortest sensible
time-out."""

Message = dict[str, Any]


SEVERAL = "several"
"""Kind of what stands for other messages: ``parts``."""

TOLD = "told"
"""Kind of what xdist's worker has to tell of a test, and what we have: ``parts`` (``told.Teller``)."""


def each_of(message: Message) -> list[Message]:
    """The messages that a node sent as one."""
    return parts_of(message) if message["kind"] == SEVERAL else [message]


def packed(message: Message) -> Message:
    """``message`` as it goes over the wire: what has parts in one piece. What execnet alone must refuse is left to it: its
    error is the one that pytest-xdist's users know."""
    if message["kind"] in (SEVERAL, TOLD):
        with contextlib.suppress(wire.NotPlainError):
            return {"kind": message["kind"], "packed": wire.pack(message["parts"])}
    return message


def parts_of(message: Message) -> list[Any]:
    """What ``message`` stands for, before ``packed`` or after it."""
    parts: list[Any] = wire.unpack(message["packed"]) if "packed" in message else message["parts"]
    return parts


def serialise_writes(gateway: Gateway) -> None:
    """Let threads send at once: over a socket execnet's messages would interleave (``sendall`` is not
    atomic)."""
    io = gateway._io
    if getattr(io, "_browserpool_lock", None) is not None:
        return
    lock, write = threading.Lock(), io.write

    def locked(data: bytes) -> None:
        with lock:
            write(data)

    io._browserpool_lock, io.write = lock, locked


def cut(gateway: Gateway) -> None:
    """End a node that no longer answers: kill its process, or the connection to it. xdist then sees it go."""
    cut_io(gateway._io)


def cut_io(io: Any) -> None:
    """The same for what a gateway talks through: it may still be on its way up."""
    sock = getattr(io, "sock", None)
    if sock is None:
        io.kill()
        return
    import socket

    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already


def send(channel: Channel, message: Message) -> bool:
    """Send ``message``; False when the other side is gone, which xdist reports in its own way."""
    try:
        channel.send(message)
    except OSError:
        return False
    return True


@dataclass(kw_only=True)
class WorkerLink:
    """The node's end."""

    channel: Channel
    settings: Settings
    words: Words
    node: str

    @classmethod
    def from_input(cls, plain: Mapping[str, Any], *, rootdir: Path) -> Self:
        """From what the controller put into ``workerinput``. Paths of the controller give way to the
        node's own."""
        settings = replace(Settings.from_plain(plain["settings"]), rootdir=str(rootdir))
        return cls(
            channel=plain["channel"],
            settings=settings,
            words=Words.from_plain(plain["words"]),
            node=plain["node"],
        )

    def send(self, message: Message) -> None:
        """Send to the controller, from any thread. If it is gone, this process is about to end."""
        send(self.channel, packed(message))

    def listen(self, handle: Callable[[Message], None], gone: Callable[[], None]) -> None:
        """Call ``handle`` for each directive, and ``gone`` when the controller is; on execnet's receiver thread: both must
        return at once."""
        serialise_writes(self.channel.gateway)
        end = object()
        self.channel.setcallback(lambda message: gone() if message is end else handle(message), endmarker=end)


def settings_for(spec: Any, settings: Settings, words: Words) -> Settings:
    """The settings of one node: ``--tx popen//browsers=firefox`` gives it only some of the browsers.

    Raises:
        pytest.UsageError: the spec names a browser that is in no catalogue.
    """
    given = getattr(spec, "browsers", None)
    if not given:
        return settings
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    for name in names:
        if name not in words.allowed:
            raise pytest.UsageError(
                f"--tx {spec}: browser {name!r} is unknown{did_you_mean(name, words.allowed)}; "
                f"one of {', '.join(words.allowed)}"
            )
    return replace(settings, browsers=names)


def worker_input(
    channel: Channel, settings: Settings, words: Words, node: str, run_id: str
) -> dict[str, Any]:
    """What the controller puts into ``workerinput[INPUT]``."""
    return {
        "channel": channel,
        "settings": settings.to_plain(),
        "words": words.to_plain(),
        "node": node,
        "run_id": run_id,
    }
