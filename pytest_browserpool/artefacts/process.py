"""Runs a helper program (npm, pip, a browser's --version) with a deadline and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_browserpool.errors import DeadlineExceeded


@dataclass(frozen=True)
class Finished:
    """How a program ended: exit status, and its two outputs as text."""

    status: int
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The lines that say what went wrong, for an error message: errors, else the last ones."""
        lines = [x.strip() for x in (self.errors + "\n" + self.output).splitlines()]
        noise = ("warning", "npm warn", "npm notice", "[notice]", "npm error a complete log")
        telling = [x for x in lines if x and not x.lower().startswith(noise)]
        errors = [x for x in telling if x.lower().startswith(("error", "npm error", "e:"))]
        if errors:
            return " / ".join(errors[:4])[:600]  # the first one is the cause
        return " / ".join(telling[-4:])[-600:] or f"exit status {self.status} without a word"


def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run ``command`` to its end, in a process group of its own so that its children can be ended with it.

    Args:
        timeout: seconds; at its end the whole group is killed.
        environment: variables added to ours.

    Raises:
        DeadlineExceeded: it had not ended in time.
        OSError: it could not be started.
    """
    words = [str(x) for x in command]
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,  # a question must fail at once, not wait for an answer
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        raise DeadlineExceeded(
            f"{' '.join(words)!r} had not ended after {timeout:g} s",
            remedy="run it by hand to see what it waits for (a network or a registry that does not answer?)",
        ) from None
    except BaseException:
        _end(process)
        raise
    return Finished(process.returncode, output, errors)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=5)  # SIGKILL is immediate; 5 s for a machine that swaps
