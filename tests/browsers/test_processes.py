"""Whose process is whose, on real processes."""

from __future__ import annotations

import os
import subprocess
import time
import uuid

import psutil

from pytest_browserpool.browsers import processes


def test_descendants_that_lost_the_mark_are_found_and_ended_ones_are_not() -> None:
    token = uuid.uuid4().hex
    # a child without any environment, as Chromium's zygote makes them, and one that has ended and is not waited for
    script = "env -i sleep 60 & sleep 60 & exec sleep 60"
    root = subprocess.Popen(["sh", "-c", script], env={**os.environ, processes.MARK: f"{token}/1"})
    try:
        until = time.monotonic() + 20
        while len(found := processes.marked(token)) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        assert root.pid in {p.pid for p in found}
        assert len(found) == 3
        assert any(not p.environ() for p in found)
        main = processes.main_process(f"{token}/1")
        assert main is not None
        assert main.pid == root.pid
        victim = next(p for p in found if not p.environ())
        victim.kill()
        while victim.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
            time.sleep(0.02)
        assert victim.pid not in {p.pid for p in processes.marked(token)}
        assert processes.kill(token) == 2
    finally:
        root.kill()
        root.wait()
    assert processes.marked(token) == []
