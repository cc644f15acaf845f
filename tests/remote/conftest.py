"""Three hosts for all the tests here, and a suite that each has its own copy of."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import remote_support
from remote_support import Network, Run

HERE = Path(__file__).parent
HOSTS = ("alpha", "beta", "gamma")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [
        item for item in items if HERE in item.path.parents and "hosts" in getattr(item, "fixturenames", ())
    ]
    why = remote_support.why_not() if mine else ""
    for item in mine:
        item.add_marker(pytest.mark.slow)
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with remote_support.network(tmp_path_factory.mktemp("net"), HOSTS) as made:
        yield made


@pytest.fixture
def run(hosts: Network, tmp_path: Path) -> Iterator[Run]:
    """A run that is ended with its test; all cables are in, before and after."""
    directory = tmp_path / "suite"
    directory.mkdir()
    running = Run(hosts, directory)
    try:
        yield running
    finally:
        running.stop()
        for name in HOSTS:
            hosts.plug_in(name)


@pytest.fixture
def suite(hosts: Network, run: Run) -> Callable[..., None]:
    """Writes test modules (``test_x="..."``) on this side and copies all to each host."""

    def write(ini: str = "", **modules: str) -> None:
        (run.directory / "pytest.ini").write_text(
            f"[pytest]\nasyncio_default_fixture_loop_scope = function\n{ini}"
        )
        for name, text in modules.items():
            path = run.directory / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for name in HOSTS:
            target = hosts.hosts[name].suite
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(run.directory, target)

    return write
