"""Nodes on other hosts over ssh: paths on the command line, hosts that are not there, a host cut off."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable

import pytest
from remote_support import Network, Run
from waiting import until

WHERE = """
import os, pathlib, socket, time
import pytest

@pytest.mark.parametrize("i", range(8))
def test_where(i):
    time.sleep(0.2)
    log = pathlib.Path(__file__).parent / "ran"
    with log.open("a") as file:
        file.write(f"{i}\\n")
"""

UNTIL_ALLOWED_ON_BETA = """
    while socket.gethostname() == "beta" and not log.with_name("go").exists():
        time.sleep(0.1)
"""


def outcomes(run: Run) -> Counter[str]:
    """JUnit's, after seeing that it has each test once."""
    found: dict[str, list[str]] = {}
    for case in ET.parse(run.directory / "junit.xml").getroot().iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found.setdefault(f"{case.get('classname')}.{case.get('name')}", []).append(
            kinds[0] if kinds else "passed"
        )
    assert {name: kinds for name, kinds in found.items() if len(kinds) != 1} == {}
    return Counter(kinds[0] for kinds in found.values())


def ran(hosts: Network, name: str, path: str = "ran") -> list[str]:
    """What the tests wrote down on that host."""
    file = hosts.hosts[name].suite / path
    return file.read_text().split() if file.exists() else []


def test_a_relative_path_runs_on_each_host(hosts: Network, run: Run, suite: Callable[..., None]) -> None:
    suite(test_where=WHERE, test_other="def test_not_asked_for(): assert False\n")
    run.start(*(hosts.tx(name) for name in ("alpha", "beta", "gamma")), "test_where.py")
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 8}
    shares = {name: ran(hosts, name) for name in ("alpha", "beta", "gamma")}
    assert sorted(i for share in shares.values() for i in share) == [str(i) for i in range(8)]
    assert all(shares.values()), shares


def test_nodes_behind_sockets_work_as_those_over_ssh(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    suite(test_where=WHERE)
    with hosts.socket_server("beta") as tx:
        for _ in range(2):  # a server serves one run after the other
            run.start(hosts.tx("alpha"), tx, "test_where.py")
            assert run.end() == 0, run.output
            assert outcomes(run) == {"passed": 8}
    shares = [ran(hosts, name) for name in ("alpha", "beta")]
    assert all(shares)
    assert sorted(shares[0] + shares[1]) == sorted([str(i) for i in range(8)] * 2)


def test_paths_mean_the_same_from_a_directory_inside_and_from_outside(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    suite(sub__test_where=WHERE, test_other="def test_not_asked_for(): assert False\n")
    inside, outside = run.directory / "sub", run.directory.parent
    cases = (
        (inside, "test_where.py::test_where[0]"),
        (outside, "suite/sub/test_where.py::test_where[0]"),
        (outside, f"{inside}/test_where.py::test_where[0]"),
    )
    for cwd, argument in cases:
        run.start(hosts.tx("alpha"), argument, cwd=cwd)
        assert run.end() == 0, run.output
        assert outcomes(run) == {"passed": 1}
    assert ran(hosts, "alpha", "sub/ran") == ["0"] * 3


def test_hosts_that_are_not_there_cost_themselves(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    suite(ini="browserpool_connect_timeout = 8\n", test_where=WHERE)
    hosts.cut("beta", no_route=True)
    hosts.cut("gamma")
    run.start(*(hosts.tx(name) for name in ("alpha", "beta", "gamma", "beta")), "-q", "test_where.py")
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 8}
    assert run.output.count("node left out: beta: ssh could not connect (its own message is above)") == 1
    assert "No route to host" in run.output
    assert run.output.count("node left out: gamma: no answer within 8 s") == 1
    assert [len(ran(hosts, name)) for name in ("alpha", "beta", "gamma")] == [8, 0, 0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("chdir=/nowhere/at/all",), "chdir=/nowhere/at/all is not a directory there"),
        (("python=/no/such/python",), "/no/such/python is not there"),
    ],
    ids=["chdir", "python"],
)
def test_a_host_that_is_set_up_wrong_costs_itself_and_says_why(
    hosts: Network, run: Run, suite: Callable[..., None], more: tuple[str, ...], said: str
) -> None:
    suite(test_where=WHERE)
    wrong = hosts.tx("beta", *more)
    run.start(hosts.tx("alpha"), wrong, "test_where.py")
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 8}
    assert f"node left out: beta: {said}" in run.output


@pytest.mark.parametrize(
    ("no_route", "said"),
    [
        (True, "alpha: ssh could not connect (its own message is above)"),
        (False, "alpha: no answer within 1 s"),
    ],
    ids=["no route", "silent"],
)
def test_without_any_host_the_run_ends_at_once_and_says_so(
    hosts: Network, run: Run, suite: Callable[..., None], no_route: bool, said: str
) -> None:
    suite(ini=f"browserpool_connect_timeout = {90 if no_route else 1}\n", test_where=WHERE)
    hosts.cut("alpha", no_route=no_route)
    run.start(hosts.tx("alpha"), "test_where.py")
    assert run.end(timeout=60) == 4, run.output
    assert f"no node of --tx could be reached: {said}" in run.output


def test_a_host_cut_off_in_the_middle_loses_no_test_and_repeats_none(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    ini = "browserpool_connect_timeout = 8\nbrowserpool_heartbeat_timeout = 6\n"
    suite(ini=ini, test_where=WHERE.replace("range(8)", "range(24)").replace("0.2", "0.5"))
    run.start(*(hosts.tx(name) for name in ("alpha", "beta", "gamma")), "-v", "test_where.py")
    run.wait_for("PASSED")
    run.wait_for("[gw1]")
    hosts.cut("beta")
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 24}
    assert "gw1 was lost" in run.output
    assert "silent for 6 s" in run.output
    assert run.output.count("node given up: beta") <= 1  # the run may end before that is known
    # the node there cannot be reached, and ends by itself
    until(lambda: not hosts.hosts["beta"].busy(), hosts.hosts["beta"].busy)


def test_a_host_cut_off_alone_is_dialled_until_the_deadline_and_each_test_is_reported(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    ini = "browserpool_connect_timeout = 4\nbrowserpool_heartbeat_timeout = 6\n"
    suite(ini=ini, test_where=WHERE.replace("0.2", "1.5"))
    run.start(hosts.tx("alpha"), "-v", "test_where.py")
    run.wait_for("PASSED")
    hosts.cut("alpha", no_route=True)
    assert run.end() == 1, run.output
    assert outcomes(run).total() == 8
    assert outcomes(run)["failure"] >= 6
    assert run.output.count("No route to host") >= 2, "one refusal is not the end"
    said = "node given up: alpha: no answer within 4 s: ssh could not connect (its own message is above)"
    assert said in run.output, run.output
    assert "no node is left, and none could be reached again" in run.output


@pytest.mark.parametrize("others", [(), ("beta",)], ids=["alone", "beside another"])
def test_a_host_that_is_back_in_time_goes_on(
    hosts: Network, run: Run, suite: Callable[..., None], others: tuple[str, ...]
) -> None:
    """It comes back after ssh was refused: the first dial fails at once, a later one gets through."""
    ini = "browserpool_connect_timeout = 90\nbrowserpool_heartbeat_timeout = 6\n"
    suite(ini=ini, test_where=WHERE + UNTIL_ALLOWED_ON_BETA)
    run.start(*(hosts.tx(name) for name in ("alpha", *others)), "-v", "test_where.py")
    run.wait_for("PASSED")
    hosts.cut("alpha", no_route=True)
    run.wait_for("No route to host")
    hosts.plug_in("alpha")
    back = f"gw{1 + len(others)}"
    run.wait_for(f"node back: alpha as {back}")
    run.wait_for(f"[{back}]")  # beta would have done all of it before it has collected
    (hosts.hosts["beta"].suite / "go").touch()
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 8}
    assert "node given up" not in run.output


def test_a_host_whose_conftest_fails_is_not_waited_for(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    conftest = "import socket\nif socket.gethostname() == 'beta':\n    import a_package_that_beta_lacks\n"
    suite(conftest=conftest, test_where=WHERE)
    run.start(*(hosts.tx(name) for name in ("alpha", "beta")), "test_where.py")
    assert run.end() == 0, run.output
    assert outcomes(run) == {"passed": 8}
    assert run.output.count("node given up: beta: gw1 ended before it had collected its tests") == 1
    assert "a_package_that_beta_lacks" in run.output


def test_a_socket_node_cut_off_ends_what_it_runs(
    hosts: Network, run: Run, suite: Callable[..., None]
) -> None:
    ini = "browserpool_connect_timeout = 4\nbrowserpool_heartbeat_timeout = 6\n"
    slow = """
import subprocess
import pytest

@pytest.mark.parametrize("i", range(2))
def test_long(i):
    subprocess.run(["sleep", "301"], check=False)
"""
    suite(ini=ini, test_where=WHERE, test_long=slow.replace("301", "3"), conftest="")
    (hosts.hosts["beta"].suite / "test_long.py").write_text(slow)  # it ends elsewhere, and would not here
    with hosts.socket_server("beta") as tx:
        run.start(tx, hosts.tx("alpha"), "-v", "test_long.py", "test_where.py")
        until(lambda: any("sleep 301" in line for line in hosts.hosts["beta"].busy()), lambda: run.output)
        hosts.cut("beta")
        assert run.end() == 0, run.output
        assert outcomes(run) == {"passed": 10}
        until(
            lambda: not any("sleep 301" in line for line in hosts.hosts["beta"].busy()),
            hosts.hosts["beta"].busy,
        )
