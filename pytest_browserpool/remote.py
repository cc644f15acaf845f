"""Nodes elsewhere (``--tx ssh=``, ``--tx socket=``, ``chdir=``): connections with a deadline, paths as they
are there.

xdist connects to one host after the other, without a deadline, and one that fails ends the run. Here all are dialled
at once; a host that cannot be reached in time costs itself, and one that was lost is dialled until then. xdist's own
code does the rest, with the gateway that is already open.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_browserpool import link

if TYPE_CHECKING:
    from execnet import Gateway, Group, XSpec

XDIST_CHDIR = "pyexecnetcache"
"""xdist's default directory on a remote, into which it used to copy the suite."""

SSH_FAILED = 255
"""ssh's own exit code; any other is the remote command's."""

PREPARE = """
import os, sys
path, make, nice, env, name = channel.receive()
os.environ.update(env)
if path:
    path = os.path.expanduser(path)
    if make:
        os.makedirs(path, exist_ok=True)
    if os.path.isdir(path):
        os.chdir(path)
        path = ""
if nice and hasattr(os, "nice"):
    os.nice(nice)
try:
    from importlib.metadata import version
    found = version(name)
except Exception:
    found = ""
channel.send((path, found, sys.executable))
"""
"""Runs on the remote first: goes to the suite's directory, and tells whether it and this package are there."""


def is_elsewhere(spec: XSpec) -> bool:
    """Whether a node has its own file system, or at least its own copy of the suite."""
    return bool(not spec.popen or spec.chdir or spec.via)


def machine_of(spec: XSpec) -> str:
    """What nodes on one machine have in common; empty for the controller's own."""
    return "" if spec.popen and not spec.via else place_of(spec).rpartition("@")[2].partition(":")[0]


def place_of(spec: XSpec) -> str:
    """The host of ``spec`` in words, without ssh's options."""
    if spec.ssh or spec.vagrant_ssh:
        words = str(spec.ssh or spec.vagrant_ssh).split()
        plain = [w for i, w in enumerate(words) if not w.startswith("-") and not _is_value(words, i)]
        return plain[-1] if plain else words[-1]
    return str(spec.socket or spec.via or "this machine")


def _is_value(words: Sequence[str], index: int) -> bool:
    """Whether the word at ``index`` is the value of the ssh option before it (``-p 2222``)."""
    return index > 0 and len(words[index - 1]) == 2 and words[index - 1][1:] in "bcDEeFIiJLlmOoPpRSWw"


@dataclass(frozen=True, kw_only=True)
class Paths:
    """How paths of this machine are written for a copy of ``rootdir`` on another."""

    rootdir: Path
    cwd: Path
    """From where pytest was called: relative arguments are meant from here."""

    @property
    def inside(self) -> str:
        """Where in ``rootdir`` the run was called; the root itself for a call from outside."""
        return self.cwd.relative_to(self.rootdir).as_posix() if self.cwd.is_relative_to(self.rootdir) else "."

    def chdir(self, root: str) -> str:
        """The directory there that is to ``root`` what ``cwd`` is to ``rootdir``."""
        return root if self.inside == "." else posixpath.join(root, self.inside)

    def arguments(self, arguments: Sequence[str]) -> list[str]:
        """Command-line arguments for a run in :meth:`chdir`: what names something under ``rootdir``, relatively.

        Everything else stays as it is: options, words, paths that are the same on all machines.
        """
        return [self._argument(argument) for argument in arguments]

    def _argument(self, argument: str) -> str:
        option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        path, marks, inside = value.partition("::")
        if not path or (option and not equals) or (argument.startswith("-") and not equals):
            return argument
        if not os.path.isabs(path) and self.cwd.is_relative_to(self.rootdir):
            return argument  # the same from the same place of the copy
        full = Path(os.path.normpath(self.cwd / path))
        if not full.is_relative_to(self.rootdir) or not (os.path.isabs(path) or full.exists()):
            return argument
        here = self.cwd if self.cwd.is_relative_to(self.rootdir) else self.rootdir
        return f"{option}{equals}{Path(os.path.relpath(full, here)).as_posix()}{marks}{inside}"


FIRST_PAUSE, LONGEST_PAUSE = 0.5, 4.0
"""Seconds between dials of a lost host, doubled each time: a dropped link is back at once or after a while, and the
longest pause is what a host that is back waits at most."""


class _RefusedError(Exception):
    """A dial failed in a way that another one may not: no route, nobody listening, closed before Python answered."""


class Connection:
    """One gateway being opened, on a thread of its own, so that a deadline can end it."""

    def __init__(
        self, group: Group, spec: XSpec, version: str, *, timeout: float, make_directory: bool
    ) -> None:
        """``timeout``: seconds from :meth:`start` on, for all of it."""
        self.spec, self.id, self.timeout = spec, str(spec.id), timeout
        self.gateway: Gateway | None = None
        self.trouble = ""
        """Why it failed for good."""
        self._group, self._version, self._make = group, version, make_directory
        self._io: Any = None
        self._refusal = ""
        """Why the last dial failed."""
        self._again = False
        self._over = threading.Event()
        self._then: Callable[[], None] = lambda: None
        self.started = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"browserpool-connect-{self.id}", daemon=True)

    def start(self, then: Callable[[], None] = lambda: None, *, again: bool = False) -> None:
        """Begin; ``then`` is called on its thread at the end, good or bad. ``again``: a refused dial is not the end,
        for this host was there before and may be back."""
        self._then, self._again, self.started = then, again, time.monotonic()
        self._thread.start()

    @property
    def deadline(self) -> float:
        """On the monotonic clock."""
        return self.started + self.timeout

    def wait(self, until: float) -> bool:
        """Whether it is open by ``until`` (monotonic); if not, it is ended, and ``trouble`` says why."""
        if not self._done.wait(max(0.0, until - time.monotonic())):
            self.give_up()
        return self.gateway is not None and not self.trouble

    def give_up(self, why: str = "") -> None:
        """End it, at whatever it is; the reason, unless given, is that its time is over."""
        self._over.set()
        late = f"no answer within {self.timeout:g} s"
        self.trouble = self.trouble or why or (f"{late}: {self._refusal}" if self._refusal else late)
        self._cut()

    def _cut(self) -> None:
        if self._io is not None:
            link.cut_io(self._io)

    def _run(self) -> None:
        try:
            self._dial_again() if self._again else self._dial()
        except _RefusedError as error:
            if self._again:
                self.give_up()
            else:
                self.trouble = self.trouble or str(error)
        except Exception as error:  # noqa: BLE001  execnet raises many kinds; all mean the same
            self.trouble = self.trouble or str(error)
        finally:
            self._done.set()
            self._then()

    def _dial_again(self) -> None:
        """Dial until it works, its time is over, or another dial cannot help."""
        import tenacity

        until_open = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_RefusedError),
            wait=tenacity.wait_exponential(FIRST_PAUSE, max=LONGEST_PAUSE),
            stop=tenacity.stop_after_delay(self.timeout) | tenacity.stop_when_event_set(self._over),
            sleep=tenacity.sleep_using_event(self._over),
            reraise=True,
        )
        until_open(self._dial)

    def _dial(self) -> None:
        gateway = None
        try:
            gateway = self._opened()
            self._prepare(gateway)
            gateway._rinfo()  # cached from now on: whoever asks must not wait
            self.gateway = gateway
        except Exception as error:
            code, why = self._exit_code(), self._why(error)
            self._cut()
            if gateway is not None:
                with contextlib.suppress(Exception):
                    gateway.exit()
            if code == SSH_FAILED or (code is None and isinstance(error, (OSError, EOFError))):
                self._refusal = why
                raise _RefusedError(why) from error
            raise ConnectionError(why) from error

    def _opened(self) -> Gateway:
        from execnet import gateway_bootstrap, gateway_io

        group, spec = self._group, self.spec
        if spec.ssh or spec.vagrant_ssh:
            self._io = gateway_io.create_io(spec, execmodel=group.execmodel)
        elif spec.socket and not spec.installvia:
            self._io = self._dialled()
        else:  # here or through another gateway: execnet's own way, whose steps cannot be ended singly
            made = type(group).makegateway(group, _without(spec, "chdir", "env", "nice"))
            made.spec = spec  # what it was asked for says that the node has a copy of the suite
            return made
        if self._over.is_set():
            self._cut()
        gateway = gateway_bootstrap.bootstrap(self._io, spec)
        if self._over.is_set() or self._exit_code() is not None:
            raise EOFError
        gateway.spec = spec
        group._register(gateway)
        return gateway

    def _dialled(self) -> Any:
        import socket

        from execnet.gateway_socket import SocketIO

        host, _, port = str(self.spec.socket).rpartition(":")
        sock = socket.create_connection((host, int(port)), timeout=self.timeout)
        sock.settimeout(None)
        io = SocketIO(sock, self._group.execmodel)
        io.remoteaddress = str(self.spec.socket)
        return io

    def _prepare(self, gateway: Gateway) -> None:
        spec = self.spec
        channel = gateway.remote_exec(PREPARE)
        nice = int(spec.nice) if spec.nice else 0
        channel.send((spec.chdir or "", self._make, nice, spec.env, "pytest-browserpool"))
        missing, version, python = channel.receive()
        channel.waitclose()
        if missing:
            raise LookupError(f"chdir={missing} is not a directory there; it must be a copy of the suite")
        if version != self._version:
            has = f"has version {version}" if version else "has none"
            raise LookupError(f"{python} there {has} of pytest-browserpool; it needs {self._version}")

    def _exit_code(self) -> int | None:
        process = getattr(self._io, "popen", None)
        if process is None:
            return None
        with contextlib.suppress(Exception):
            process.wait(timeout=0.2)
        code: int | None = process.poll()
        return code

    def _why(self, error: Exception) -> str:
        code = self._exit_code()
        if code == SSH_FAILED:
            return "ssh could not connect (its own message is above)"
        if code is not None:
            what = f"{self.spec.python or 'python'} is not there" if code == 127 else "Python did not start"
            return f"{what} (exit code {code} over ssh)"
        if isinstance(error, EOFError):
            return "the connection was closed before Python answered"
        return f"{error}" if isinstance(error, (LookupError, OSError)) else f"{type(error).__name__}: {error}"


def _without(spec: XSpec, *names: str) -> XSpec:
    import copy

    plain = copy.copy(spec)
    for name in names:
        setattr(plain, name, {} if name == "env" else None)
    return plain
