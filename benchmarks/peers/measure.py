"""Runs a command and measures its whole process tree: wall time, processor time, and peak memory.

Orphans of the tree become children of this process (``PR_SET_CHILD_SUBREAPER``), so that none is forgotten.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.5
"""Between looks at the tree: each costs a few milliseconds of a core."""
NEWS = 1.02
"""Proportional set sizes are read (10 ms a process) only where the cheap private sizes are a new peak by this factor."""
SETTLE_SECONDS = 15.0
"""For what outlives the command to end by itself; then it is killed and counted as left behind."""
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Of the sum of proportional set sizes: shared pages count once."""
    processes: int
    """At most at a time."""
    left_behind: int
    code: int
    output: str


def adopt_orphans() -> None:
    """Once per process, before the first run; SIGTERM then ends what runs, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children_of_all() -> dict[int, list[int]]:
    """Parent → children, of every process."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                parent = int(stat[stat.rindex(")") + 2 :].split()[1])
                found.setdefault(parent, []).append(int(entry))
    return found


def tree(root: int, among: Mapping[int, list[int]] | None = None) -> list[int]:
    """``root``'s descendants."""
    among = among if among is not None else children_of_all()
    found, ahead = [], list(among.get(root, ()))
    while ahead:
        pid = ahead.pop()
        found.append(pid)
        ahead += among.get(pid, ())
    return found


def private_bytes(pids: Sequence[int]) -> int:
    """What is resident and not shared: cheap, and grows with what a peak consists of."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
            total += (int(resident) - int(shared)) * PAGE
    return total


def proportional_bytes(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


class Sampler(threading.Thread):
    """Looks at our descendants until stopped, and buries those of them that ended as orphans, as a machine's first process
    does: thousands of them would make every look at the process table slow, that of what is measured too."""

    def __init__(self, command: int) -> None:
        """``command``: the child that its caller waits for."""
        super().__init__(daemon=True)
        self._command = command
        self.peak = 0
        self.processes = 0
        self._private = 0
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.wait(SAMPLE_SECONDS):
            among = children_of_all()
            pids = tree(os.getpid(), among)
            for child in among.get(os.getpid(), ()):
                if child != self._command:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(child, os.WNOHANG)
            self.processes = max(self.processes, len(pids))
            private = private_bytes(pids)
            if private > self._private * NEWS:
                self._private = private
                self.peak = max(self.peak, proportional_bytes(pids))

    def stop(self) -> None:
        self._enough.set()
        self.join()


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: Sequence[str], env: Mapping[str, str], cwd: Path, limit: float) -> Measured:
    """Runs it to its end, at most ``limit`` seconds, and until nothing of it is left."""
    before = cpu_of_children()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=dict(env), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    sampler = Sampler(process.pid)
    sampler.start()
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        output = f"killed after {limit:g} s\n"
    except BaseException:  # interrupted or terminated: nothing of the run may live on
        end_all()
        raise
    seconds = time.perf_counter() - started
    sampler.stop()
    left = _wait_for_the_rest()
    return Measured(
        seconds=seconds,
        cpu_seconds=cpu_of_children() - before,
        peak_mib=sampler.peak / (1 << 20),
        processes=sampler.processes,
        left_behind=left,
        code=process.returncode if process.returncode is not None else -1,
        output=output,
    )


def _wait_for_the_rest() -> int:
    """Waits for adopted processes to end; kills those that do not. How many had to be killed."""
    until = time.monotonic() + SETTLE_SECONDS
    while _reap():
        if time.monotonic() > until:
            return end_all()
        time.sleep(0.05)
    return 0


def end_all() -> int:
    """Kills every descendant; how many there were."""
    rest = tree(os.getpid())
    for pid in rest:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while _reap():
        time.sleep(0.05)
    return len(rest)


def _reap() -> bool:
    """Whether there still are children, once the dead ones are buried."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False
