"""Kills one browser of a run: at the moment when half of the tests have ended, the one in which the next test begins."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

from measure import tree

POLL_SECONDS = 0.005
"""A warm test takes some tens of milliseconds and must be met while it runs."""
FIND_SECONDS = 10.0
"""The test that begins may have to launch its browser first."""
PROGRAMS = {"chromium": "chromium", "firefox": "firefox", "headless-shell": "headless_shell"}


class Killer(threading.Thread):
    """``killed`` says what and when, once it is done."""

    def __init__(self, record: Path, after: int) -> None:
        super().__init__(daemon=True)
        self.record, self.after = record, after
        self.killed: tuple[str, float] | None = None
        self.enough = threading.Event()

    def run(self) -> None:
        ended = 0
        read = 0
        while not self.enough.wait(POLL_SECONDS):
            try:
                with self.record.open("rb") as file:
                    file.seek(read)
                    new = file.read()
            except FileNotFoundError:
                continue
            whole = new[: new.rfind(b"\n") + 1]  # a line may be on its way
            read += len(whole)
            for event in map(json.loads, whole.splitlines()):
                if event["event"] == "begin" and ended >= self.after:
                    self._kill(event["pid"], event["browser"])
                    return
                ended += event["event"] == "end"

    def _kill(self, worker: int, browser: str) -> None:
        until = time.monotonic() + FIND_SECONDS
        while time.monotonic() < until and not self.enough.is_set():
            for pid in tree(worker):
                if is_main(pid, PROGRAMS[browser]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self.killed = (browser, time.time())
                        return
            time.sleep(POLL_SECONDS)


def is_main(pid: int, program: str) -> bool:
    """Whether it is a browser's main process and not one of its helpers."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False
    helper = "-contentproc" in words or any(w.startswith("--type=") for w in words)
    return program in Path(words[0]).name and "crashpad" not in words[0] and not helper
