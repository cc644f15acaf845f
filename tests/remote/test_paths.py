"""Arguments as another machine reads them, and hosts named in words."""

from __future__ import annotations

from pathlib import Path

import execnet
import pytest

from pytest_browserpool.remote import Paths, is_elsewhere, machine_of, place_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "suite" / "sub").mkdir(parents=True)
    (tmp_path / "suite" / "sub" / "test_x.py").touch()
    (tmp_path / "suite" / "pytest.ini").touch()
    (tmp_path / "other").mkdir()
    return tmp_path / "suite"


def test_from_the_root_only_absolute_paths_change(root: Path) -> None:
    paths = Paths(rootdir=root, cwd=root)
    given = [
        "sub/test_x.py::test_a[x/y]", "sub", "-k", "sub", "--tb=short", "-v", f"{root}/sub/test_x.py::test_a",
        f"--config-file={root}/pytest.ini", "-c", f"{root}/pytest.ini", "/nowhere/report.xml", f"{root.parent}/other",
    ]  # fmt: skip
    assert paths.arguments(given) == [
        "sub/test_x.py::test_a[x/y]", "sub", "-k", "sub", "--tb=short", "-v", "sub/test_x.py::test_a",
        "--config-file=pytest.ini", "-c", "pytest.ini", "/nowhere/report.xml", f"{root.parent}/other",
    ]  # fmt: skip
    assert paths.chdir("/far/suite") == "/far/suite"


def test_from_a_directory_inside_the_node_goes_there_too(root: Path) -> None:
    paths = Paths(rootdir=root, cwd=root / "sub")
    assert paths.arguments(["test_x.py", "../sub", f"{root}/sub/test_x.py", f"--rootdir={root}"]) == [
        "test_x.py", "../sub", "test_x.py", "--rootdir=..",
    ]  # fmt: skip
    assert paths.chdir("/far/suite") == "/far/suite/sub"


def test_from_outside_what_is_in_the_suite_is_named_from_its_root(root: Path) -> None:
    paths = Paths(rootdir=root, cwd=root.parent)
    assert paths.arguments(["suite/sub/test_x.py::test_a", "suite", "other", "-k", "word", "--maxfail=2"]) == [
        "sub/test_x.py::test_a", ".", "other", "-k", "word", "--maxfail=2",
    ]  # fmt: skip
    assert paths.chdir("/far/suite") == "/far/suite"


@pytest.mark.parametrize(
    ("spec", "place", "elsewhere"),
    [
        ("ssh=alpha//chdir=/x", "alpha", True),
        ("ssh=-p 2222 -i /key root@alpha.example//chdir=/x", "root@alpha.example", True),
        ("socket=10.0.0.1:8888//chdir=/x", "10.0.0.1:8888", True),
        ("popen//via=gate", "gate", True),
        ("popen//chdir=/x", "this machine", True),
        ("popen", "this machine", False),
    ],
)
def test_hosts_in_words(spec: str, place: str, elsewhere: bool) -> None:
    assert place_of(execnet.XSpec(spec)) == place
    assert is_elsewhere(execnet.XSpec(spec)) is elsewhere


def test_nodes_of_one_machine_are_told_from_others() -> None:
    same = ("ssh=ci@alpha//chdir=/x", "ssh=-p 2222 alpha//chdir=/y", "socket=alpha:8888//chdir=/x")
    assert {machine_of(execnet.XSpec(spec)) for spec in same} == {"alpha"}
    assert {machine_of(execnet.XSpec(spec)) for spec in ("popen", "popen//chdir=/x")} == {""}
