"""How faults are injected into real browsers, and what must be true afterwards."""

from __future__ import annotations

import contextlib
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import pytest
from bench_support import Bench
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from onnx_models import build, value
from waiting import PATIENCE, until

from pytest_browserpool.browsers.processes import MARK
from pytest_browserpool.fixtures import Model
from pytest_browserpool.node.session import ModelSession


def spin() -> bytes:
    """``y``: x after ``rounds`` of y = tanh(y @ w). As long as the caller likes, and every bit of x counts."""
    w = np.random.default_rng(7).standard_normal((64, 64)).astype(np.float32) / 4
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "w"], ["m"]),
            helper.make_node("Tanh", ["m"], ["next"]),
        ],
        "body",
        [value("round", (), T.INT64), value("go", (), T.BOOL), value("state", (16, 64))],
        [value("go_on", (), T.BOOL), value("next", (16, 64))],
    )
    constants = [numpy_helper.from_array(np.array(True), "yes"), numpy_helper.from_array(w, "w")]
    node = helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)
    inputs = [value("x", (16, 64)), value("rounds", (), T.INT64)]
    return build(helper.make_graph([node], "spin", inputs, [value("y", (16, 64))], constants))


def dense() -> bytes:
    """y = tanh(tanh(x @ w) @ w): all its nodes run on WebGPU."""
    w = np.random.default_rng(8).standard_normal((64, 64)).astype(np.float32) / 4
    nodes = []
    for i, name in enumerate(("x", "a")):
        nodes += [
            helper.make_node("MatMul", [name, "w"], [f"m{i}"]),
            helper.make_node("Tanh", [f"m{i}"], ["a" if i == 0 else "y"]),
        ]
    constants = [numpy_helper.from_array(w, "w")]
    return build(helper.make_graph(nodes, "dense", [value("x", (16, 64))], [value("y", (16, 64))], constants))


def layers(count: int) -> bytes:
    """y = x through that many of tanh(x @ w), 256 wide: seconds on a software GPU, well under one on the CPU."""
    w = np.random.default_rng(6).standard_normal((256, 256)).astype(np.float32) / 16
    nodes = []
    for i in range(count):
        last = "y" if i == count - 1 else f"a{i + 1}"
        nodes.append(helper.make_node("MatMul", ["x" if i == 0 else f"a{i}", "w"], [f"m{i}"]))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [last]))
    inputs, outputs = [value("x", (256, 256))], [value("y", (256, 256))]
    return build(helper.make_graph(nodes, "layers", inputs, outputs, [numpy_helper.from_array(w, "w")]))


X: NDArray[np.float32] = np.random.default_rng(9).standard_normal((16, 64)).astype(np.float32)


def turns(rounds: int) -> dict[str, NDArray[Any]]:
    return {"x": X, "rounds": np.array(rounds, np.int64)}


# -- processes --------------------------------------------------------------------------------------------------------


def processes(bench: Bench, browser: str, role: str = "") -> list[psutil.Process]:
    """The living processes of that browser; ``role``: gpu, page, main or all of them, main first."""
    found = []
    for instance in bench.node.pool.instances:
        if instance.name == browser:
            tree = instance.process.process_tree()
            main = instance.process.pid
            found += sorted((p for p in tree if _plays(p, role, main)), key=lambda p: p.pid != main)
    return found


def _plays(process: psutil.Process, role: str, main: int | None) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    match role:
        case "gpu":
            return "--type=gpu-process" in words
        case "page":
            return "--type=renderer" in words or ("-contentproc" in words and words[-1] == "tab")
        case "main":
            return process.pid == main
        case _:
            return True


def send(bench: Bench, browser: str, role: str, what: signal.Signals) -> int:
    """Sends a signal to the processes of that role; how many."""
    count = 0
    for process in processes(bench, browser, role):
        with contextlib.suppress(psutil.Error):
            process.send_signal(what)
            count += 1
    return count


def driver(bench: Bench) -> list[psutil.Process]:
    """Playwright's driver of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "run-driver" in process.cmdline():
                found.append(process)
    return found


def nothing_astray(bench: Bench) -> None:
    """Every browser process of the node belongs to a browser of its pool; those that were ended are gone."""
    none_of(token_of(bench), lambda: {i.identity for i in bench.node.pool.instances})


def token_of(bench: Bench) -> str:
    """What marks the processes of the node."""
    workdir = bench.node._workdir
    assert workdir is not None
    return workdir.token


def none_of(token: str, but: Callable[[], set[str]] = set) -> None:
    """No process that is marked with ``token`` is left, except those of the browsers ``but``."""

    def astray() -> list[str]:
        return _astray(token, but())

    until(lambda: not astray(), astray, pause=0.2)


def _astray(token: str, known: set[str]) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
            if (
                mark.startswith(token + "/")
                and mark not in known
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(f"{process.pid} {process.name()} of {mark}")
        except (psutil.Error, OSError):
            continue
    return found


# -- the right moment -------------------------------------------------------------------------------------------------


def busy(bench: Bench) -> bool:
    """Whether a page is at a command."""
    return any(channel._pending for channel in list(bench.node.pool._channels.values()))


@contextlib.contextmanager
def when(condition: Callable[[], Any], act: Callable[[], Any], after: float = 0.0) -> Iterator[list[float]]:
    """Does ``act`` from another thread once ``condition`` holds and ``after`` seconds more; yields when it did."""
    done: list[float] = []
    stop = threading.Event()
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            while not condition():
                if stop.wait(0.003):
                    return
            time.sleep(after)
            done.append(time.monotonic())
            act()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            errors.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(PATIENCE)
        if errors:
            raise errors[0]


# -- what came of it --------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """The table of the run."""

    lines: dict[str, dict[str, list[tuple[str, float | None]]]] = field(default_factory=dict)

    def add(self, fault: str, browser: str, outcome: str, seconds: float | None) -> None:
        self.lines.setdefault(fault, {}).setdefault(browser, []).append((outcome, seconds))

    def table(self) -> list[str]:
        """As Markdown."""
        columns = sorted({browser for cells in self.lines.values() for browser in cells})
        text = ["| fault | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for fault, cells in self.lines.items():
            text.append(f"| {fault} | " + " | ".join(_cell(cells.get(c, [])) for c in columns) + " |")
        return text


def _cell(seen: list[tuple[str, float | None]]) -> str:
    if not seen:
        return "–"
    outcomes = ", ".join(sorted({outcome for outcome, _ in seen}))
    times = [seconds for _, seconds in seen if seconds is not None]
    return f"{outcomes} {statistics.median(times):.2f} s" if times else outcomes


def the_fault(bench: Bench, nodeid: str) -> dict[str, Any]:
    """The one fault of the test's record."""
    rows = [row for row in bench.rows("faults") if row["nodeid"] == nodeid]
    assert len(rows) == 1, rows
    return rows[0]


def answered_once(bench: Bench, model: Model, nodeid: str, calls: int) -> None:
    """The test's record has each call once, and each right."""
    runs = [r for r in bench.rows("operations_log") if r["nodeid"] == nodeid and r["kind"] == "run"]
    assert [r["ok"] for r in runs] == [True] * calls, runs
    assert len(model.timings) == calls


Seen = dict[str, list[bool]]
"""Of each model, by hash: which of the test's calls came back with an answer, in order."""


def listen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Notes how each call of a model, or of a session of it, ends for the test that makes it."""
    seen: Seen = {}

    def heard(call: Callable[..., Any], sha256: Callable[[Any], str]) -> Callable[..., Any]:
        def listening(self: Any, *args: Any, **keywords: Any) -> Any:
            ends = seen.setdefault(sha256(self), [])
            try:
                answer = call(self, *args, **keywords)
            except BaseException:
                ends.append(False)
                raise
            ends.append(True)
            return answer

        return listening

    monkeypatch.setattr(Model, "run", heard(Model.run, lambda model: model.sha256))
    step = heard(ModelSession.__call__, lambda session: session._resident.content.sha256)
    monkeypatch.setattr(ModelSession, "__call__", step)
    return seen


def each_once(benches: list[Bench], seen: Seen) -> None:
    """The record has each call that the test made, once, with the end that the test saw."""
    recorded: Seen = {}
    for bench in benches:
        for row in bench.rows("operations_log"):
            if row["kind"] == "run":
                recorded.setdefault(row["model"], []).append(row["ok"])
    assert recorded == seen
