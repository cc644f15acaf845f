"""A run that somebody stops: what was not run is not a failure."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUITE = """
import pathlib, time
import pytest

@pytest.mark.parametrize("i", range(40))
def test_slow(i):
    (pathlib.Path(__file__).parent / "begun").touch()
    time.sleep(0.5)
"""


@pytest.mark.slow
def test_ctrl_c_fails_no_test_that_did_not_run(tmp_path: Path) -> None:
    (tmp_path / "test_many.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "--browserpool", "-n1", "-p", "no:cacheprovider"]
    with (tmp_path / "out").open("wb") as out:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == pytest.ExitCode.INTERRUPTED
    finally:
        run.kill()
        run.wait()
    said = (tmp_path / "out").read_text()
    assert "KeyboardInterrupt" in said
    assert "not run" not in said
    assert "failed" not in said.splitlines()[-1]
