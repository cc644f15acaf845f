"""urllib with a deadline for all of a download: http.client's own time-out begins anew with each byte that drips in."""

from __future__ import annotations

import functools
import http.client
import io
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for."""

    seconds: float
    """For the whole download."""
    silence: float
    """Seconds without a byte."""
    began: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        """By the monotonic clock."""
        return self.began + self.seconds

    @property
    def over(self) -> bool:
        """Whether a wait that timed out did so at the deadline, and not for silence."""
        return (
            time.monotonic() >= self.deadline - 0.01
        )  # a socket's clock need not be ours to the millisecond

    def wait(self) -> float:
        """Seconds for the next wait.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return min(self.silence, left)


class _Reads(io.RawIOBase):
    """What a socket receives."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock, self._patience = sock, patience
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._patience.wait())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Reads all through ``_Reads``: status line, headers, sizes of chunks, body and trailers."""

    def __init__(self, sock: socket.socket, *args: Any, patience: Patience, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Reads(sock, patience))


class _Patient(urllib.request.AbstractHTTPHandler):
    """A handler's connections: those that redirects lead to as well, and the one to a proxy."""

    patience: Patience

    def do_open(
        self, http_class: Any, req: urllib.request.Request, **options: Any
    ) -> http.client.HTTPResponse:
        return super().do_open(functools.partial(self._connection, http_class), req, **options)

    def _connection(self, connection: Callable[..., Any], host: str, **options: Any) -> Any:
        made = connection(host, **{**options, "timeout": self.patience.wait()})
        made.response_class = functools.partial(_Response, patience=self.patience)
        return made


class _Http(_Patient, urllib.request.HTTPHandler):
    pass


class _Https(_Patient, urllib.request.HTTPSHandler):
    pass


def opener_with(patience: Patience, *handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener with ``handlers``, in which no read outlasts ``patience``: it raises a ``TimeoutError``."""
    http_, https = _Http(), _Https()
    http_.patience = https.patience = patience
    return urllib.request.build_opener(http_, https, *handlers)
