"""Dialling again, without a network: execnet runs what is called ``ssh``, and here that is a script that refuses at first."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import execnet
import pytest

from pytest_browserpool import __version__
from pytest_browserpool.remote import Connection

SSH = """#!/bin/sh
echo dialled >> {log}
if [ $(wc -l < {log}) -le {refused} ]; then exit {status}; fi
for command; do :; done
exec sh -c "$command"
"""

Dial = Callable[..., Connection]


@pytest.fixture
def dial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dial]:
    """A connection to a host whose ssh ends with ``status`` the first ``refused`` times; then it is this machine."""
    group = execnet.Group(execmodel="main_thread_only")  # as xdist makes it
    made: list[Connection] = []

    def connect(refused: int, status: int = 255, timeout: float = 60.0) -> Connection:
        script = tmp_path / "ssh"
        script.write_text(SSH.format(log=tmp_path / "log", refused=refused, status=status))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        spec = execnet.XSpec(
            f"ssh=somewhere//python={sys.executable}//chdir={tmp_path}//execmodel=main_thread_only"
        )
        group.allocate_id(spec)
        made.append(Connection(group, spec, __version__, timeout=timeout, make_directory=False))
        return made[-1]

    yield connect
    for each in made:
        each.give_up("the test is over")
    group.terminate(timeout=5.0)


def dials(tmp_path: Path) -> int:
    return len((tmp_path / "log").read_text().splitlines())


def test_a_lost_host_is_dialled_until_it_answers(dial: Dial, tmp_path: Path) -> None:
    connection, ended = dial(refused=2), threading.Event()
    connection.start(ended.set, again=True)
    assert ended.wait(60)
    assert connection.wait(time.monotonic()), connection.trouble
    assert dials(tmp_path) == 3
    assert connection.gateway is not None
    assert connection.gateway.remote_exec("channel.send(6 * 7)").receive(30) == 42


def test_at_the_beginning_a_refusal_is_an_answer(dial: Dial, tmp_path: Path) -> None:
    connection = dial(refused=1)
    connection.start()
    assert not connection.wait(connection.deadline)
    assert connection.trouble == "ssh could not connect (its own message is above)"
    assert dials(tmp_path) == 1


def test_what_another_dial_cannot_mend_is_not_dialled_again(dial: Dial, tmp_path: Path) -> None:
    connection = dial(refused=9, status=127)
    connection.start(again=True)
    assert not connection.wait(connection.deadline)
    assert connection.trouble == f"{sys.executable} is not there (exit code 127 over ssh)"
    assert dials(tmp_path) == 1


def test_the_deadline_ends_it_and_says_what_was_refused(dial: Dial, tmp_path: Path) -> None:
    connection = dial(refused=10**6, timeout=2.0)
    connection.start(again=True)
    assert not connection.wait(connection.deadline)
    assert connection.trouble == "no answer within 2 s: ssh could not connect (its own message is above)"
    assert dials(tmp_path) >= 2


def test_the_end_of_the_run_ends_a_pause_between_dials(dial: Dial, tmp_path: Path) -> None:
    connection, ended = dial(refused=10**6), threading.Event()
    connection.start(ended.set, again=True)
    until = time.monotonic() + 60
    while not (tmp_path / "log").exists() or dials(tmp_path) < 3:  # the next pause takes two seconds
        assert time.monotonic() < until
        time.sleep(0.02)
    connection.give_up("the run is over")
    assert ended.wait(30)
    assert connection.trouble == "the run is over"
    assert dials(tmp_path) <= 4
