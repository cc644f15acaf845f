"""The operating system's side of browsers: whose process is whose, what they take, and an end for all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

MARK = "BROWSERPOOL_INSTANCE"
"""Environment variable of every process of a browser that we launched: ``<node token>/<number>``."""

PREFIX = "browserpool-"
OWNER = "owner.pid"


def marked(token: str) -> list[psutil.Process]:
    """Every living process whose environment has the mark ``token`` or one below it (``token/…``), and its descendants.

    The descendants are looked for because Chromium writes its title over the environment of those that its zygote forks.
    One pass over the process table: where nobody waits for orphans, in a container whose first process does not, thousands
    of dead browsers' processes stand in it, and a look at each for each process of a browser took seconds.
    """
    found: dict[int, psutil.Process] = {}
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                children.setdefault(process.ppid(), []).append(process)
                mark = process.environ().get(MARK, "")
        except (psutil.Error, OSError):
            continue
        if mark == token or mark.startswith(token + "/"):
            found[process.pid] = process
    ahead = list(found)
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child.pid not in found:
                found[child.pid] = child
                ahead.append(child.pid)
    return list(found.values())


def kill(token: str, patience: float = 5.0) -> int:
    """Kills what ``marked`` finds, twice, because a process may fork meanwhile. Returns how many.

    Raises:
        OSError: the process table could not be read for ``patience`` seconds: no file descriptor is left, say.
    """
    count = 0
    deadline = time.monotonic() + patience
    for _ in range(2):
        processes = _marked_by(token, deadline)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()  # SIGKILL ends a stopped process too
        psutil.wait_procs(processes, timeout=2)
        count += len(processes)
        if not processes:
            break
    return count


def _marked_by(token: str, deadline: float) -> list[psutil.Process]:
    while True:
        try:
            return marked(token)
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def main_process(token: str) -> psutil.Process | None:
    """The browser's own process of instance ``token``: the marked one whose parent is not marked."""
    processes = {p.pid: p for p in marked(token)}
    for process in processes.values():
        with contextlib.suppress(psutil.Error):
            if process.ppid() not in processes:
                return process
    return None


def alive(process: psutil.Process) -> bool:
    """Whether it still runs (or is stopped); a dead one that nobody waited for is dead, one that cannot be seen is not.

    One on its way out is dead too: Linux takes a process's memory before its sockets, so who saw a socket close finds none.
    """
    try:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.memory_info().rss > 0)
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True


def drivers() -> list[psutil.Process]:
    """Playwright's drivers that this process started."""
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "run-driver" in process.cmdline():
                found.append(process)
    return found


def memory_of(root: psutil.Process | None) -> int:
    """Bytes of a process tree: proportional set size where the system tells it, so that shared pages count once."""
    if root is None:
        return 0
    total = 0
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in tree:
        try:
            info = process.memory_full_info()
            total += getattr(info, "pss", 0) or info.uss
        except (psutil.Error, OSError):
            continue
    return total


class Workdir:
    """The temporary directory of one node: profiles, artefacts and sockets of its browsers lie in it.

    A guardian process removes it, and every process marked with its token, when this process ends in whatever way.
    """

    def __init__(self) -> None:
        self.token = uuid.uuid4().hex[:12]
        self.path = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}-{self.token}"
        self.path.mkdir(mode=0o700)
        (self.path / OWNER).write_text(str(os.getpid()))
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "pytest_browserpool.browsers.guardian", self.token, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the whole foreground group, and the guardian must outlive it
        )

    def close(self, timeout: float = 10.0) -> None:
        """Ends what is left of the browsers and removes the directory; the guardian does it and is waited for."""
        assert self._guardian.stdin is not None
        with contextlib.suppress(OSError):
            self._guardian.stdin.close()
        try:
            self._guardian.wait(timeout)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        clean(self.token, self.path)  # nothing to do where the guardian did it


def clean(token: str, path: Path) -> None:
    """Kills the marked processes and removes the directory; repeated, because a dying browser still writes."""
    kill(token)
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.05)


def sweep() -> list[Path]:
    """Removes work directories whose owner and guardian are both dead (a machine that lost its power, say)."""
    removed = []
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        try:
            owner = int((path / OWNER).read_text())
            mine = path.stat().st_uid == os.getuid()
        except (OSError, ValueError):
            continue
        if mine and not psutil.pid_exists(owner) and time.time() - path.stat().st_mtime > 60:
            clean(path.name.rsplit("-", 1)[1], path)
            removed.append(path)
    return removed


def ignore_interrupts() -> None:
    """For the guardian: it ends when its pipe does, not when somebody presses Ctrl-C."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
