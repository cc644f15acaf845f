"""What holds over a long time: ``make bench-soak``.

``operations``: warm calls in real browsers with a random fault every fifty. Each answer is compared, bit for bit, with that
of an undisturbed browser; memory, processes and file descriptors are printed as they go.
``kills``: ``kill -9`` of pytest's controller at a random moment while its nodes send rows, again and again on one history.
Before each kill another process reads what is committed; afterwards the file must open, verify, and have all of that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
from numpy.typing import NDArray

from pytest_browserpool.browsers.processes import drivers
from pytest_browserpool.config import Settings
from pytest_browserpool.fixtures import Model
from pytest_browserpool.link import each_of
from pytest_browserpool.node.node import Node
from pytest_browserpool.values import ModelNeeds

SOURCE = "pypi:silero-vad==6.2.3/silero_vad/data/silero_vad_openvino_16k.onnx"
QUESTIONS = 16
"""Different inputs: enough that an answer of another call would be noticed."""
SAMPLES = 20
"""Lines of memory and processes that a run prints."""
LEVEL = 1.25
"""The last quarter may take so much more than the second one: the first still fills caches, and pages come and go."""

# -- warm operations under faults -------------------------------------------------------------------------------------


def kill_browser(node: Node, model: Model, rng: random.Random) -> None:
    for process in instance_of(model).process.process_tree():
        with contextlib.suppress(psutil.Error):
            process.kill()


def kill_page(node: Node, model: Model, rng: random.Random) -> None:
    """One renderer or content process."""
    pages = []
    for process in instance_of(model).process.process_tree():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "--type=renderer" in words or ("-contentproc" in words and words[-1] == "tab"):
                pages.append(process)
    for process in pages:
        with contextlib.suppress(psutil.Error):
            process.kill()


def cut_socket(node: Node, model: Model, rng: random.Random) -> None:
    async def abort() -> None:
        loaded = model._resident.loaded
        assert loaded is not None
        loaded.page.channel._socket._req.transport.abort()  # type: ignore[union-attr]

    node.call(abort, 10)


def kill_driver(node: Node, model: Model, rng: random.Random) -> None:
    mine = psutil.Process().children(recursive=True)
    for process in drivers():
        if process in mine:
            process.kill()


FAULTS: dict[Callable[[Node, Model, random.Random], None], int] = {
    kill_browser: 4,
    kill_page: 3,
    cut_socket: 2,
    kill_driver: 1,
}
"""With their weights."""


def instance_of(model: Model) -> Any:
    loaded = model._resident.loaded
    assert loaded is not None
    return loaded.instance


@dataclass
class Level:
    """What may not grow, as it went."""

    python_mib: list[float] = field(default_factory=list)
    browsers_mib: list[float] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, node: Node) -> None:
        me = psutil.Process()
        self.python_mib.append(me.memory_info().rss / (1 << 20))
        self.browsers_mib.append(sum(i.process.memory() for i in node.pool.instances) / (1 << 20))
        self.processes.append(len(me.children(recursive=True)))
        self.descriptors.append(me.num_fds())

    def told(self) -> str:
        return (
            f"python {self.python_mib[-1]:.0f} MiB, browsers {self.browsers_mib[-1]:.0f} MiB, "
            f"{self.processes[-1]} processes, {self.descriptors[-1]} file descriptors"
        )

    def grew(self) -> list[str]:
        """What was more in the last quarter than in the second, by more than ``LEVEL``."""
        found = []
        for name, series in vars(self).items():
            quarter = max(1, len(series) // 4)
            early, late = (
                statistics.median(series[quarter : 2 * quarter]),
                statistics.median(series[-quarter:]),
            )
            print(f"  {name}: {early:.0f} in the second quarter, {late:.0f} in the last: {late / early:.2f}")
            if late > LEVEL * early:
                found.append(name)
        return found


def questions(model: Model) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(11)
    return [
        {
            t.name: rng.standard_normal([d if isinstance(d, int) else 1 for d in t.dims or ()]).astype(
                np.float32
            )
            for t in model.inputs
        }
        for _ in range(QUESTIONS)
    ]


def bits(outputs: dict[str, NDArray[Any]]) -> bytes:
    return b"".join(array.tobytes() for _, array in sorted(outputs.items()))


class Heard:
    """What the node tells, counted: kept, it would be most of what grows here."""

    def __init__(self) -> None:
        self.runs = self.failed = 0
        self.faults = Counter[tuple[str, str]]()

    def __call__(self, message: dict[str, Any]) -> None:
        for row in (m["row"] for m in each_of(message) if m["kind"] == "record"):
            if "strategy" in row:
                self.faults[row["kind"], row["outcome"]] += 1
            elif row.get("kind") == "run" and "latency_ms" in row:
                self.runs += 1
                self.failed += not row["ok"]


def operations(options: argparse.Namespace) -> bool:
    """The calls; whether all was as it must be."""
    rng, heard, level, struck = random.Random(options.seed), Heard(), Level(), Counter[str]()
    node = Node(Settings(rootdir=str(Path.cwd()), db="", page_max_memory_gib=2.0), "soak", heard)
    with contextlib.closing(node):
        node.begin_test("soak")
        names = options.browsers.split(",")
        models = [
            Model(node, node.load(ModelNeeds(browsers=(f"={n}",), backends=("wasm",)), SOURCE, None))
            for n in names
        ]
        asked = questions(models[0])
        answers = [bits(models[0](inputs)) for inputs in asked]
        wrong, started = 0, time.monotonic()
        for number in range(1, options.operations + 1):
            model = models[rng.randrange(len(models))]
            if number % options.every == 0:
                (fault,) = rng.choices(list(FAULTS), list(FAULTS.values()))
                fault(node, model, rng)
                struck[fault.__name__] += 1
            which = rng.randrange(QUESTIONS)
            wrong += bits(model(asked[which])) != answers[which]
            if number % max(1, options.operations // SAMPLES) == 0:
                level.sample(node)
                print(
                    f"  {number} calls, {wrong} wrong, {time.monotonic() - started:.0f} s: {level.told()}",
                    flush=True,
                )
        recovered = sum(model.recoveries for model in models)
        node.end_test()
    print(f"{options.operations} calls in {', '.join(names)}: {wrong} wrong answers")
    print(f"  struck: {dict(struck)}; on the record: {dict(heard.faults)}; {recovered} recoveries")
    print(f"  rows of calls: {heard.runs}, failed {heard.failed}")
    grew = level.grew()
    left = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    print(f"  processes left after the end: {len(left)}; grew: {', '.join(grew) or 'nothing'}")
    once = heard.runs == options.operations + QUESTIONS and not heard.failed
    return not wrong and once and not grew and not left


# -- kill -9 of the controller ----------------------------------------------------------------------------------------

SUITE = """
import pytest

@pytest.mark.parametrize("i", range(100_000))
def test_something(i):
    assert i >= 0
"""
INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
browserpool_state_sync_interval = 0.2
"""


def committed(history: Path) -> int | None:
    """Tests in the history as any other process reads them; None while the writer has it or it is not there."""
    try:
        with duckdb.connect(str(history), read_only=True) as connection:
            return int(connection.sql("SELECT count(*) FROM tests").fetchall()[0][0])
    except duckdb.Error:
        return None


def kills(options: argparse.Namespace) -> bool:
    """The kills; whether each left a sound history."""
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="browserpool-soak-") as directory:
        place = Path(directory)
        (place / "test_load.py").write_text(SUITE.replace("100_000", str(options.tests)))
        (place / "pytest.ini").write_text(INI)
        history = place / ".browserpool" / "history.duckdb"
        lost = unopened = unsound = 0
        before, writing = 0, 0
        for number in range(1, options.kills + 1):
            seen = one_kill(place, history, before, rng)
            after = waited(lambda: committed(history))
            verify = [sys.executable, "-m", "pytest_browserpool.cli", "verify", "--db", str(history)]
            sound = subprocess.run(verify, capture_output=True, timeout=120).returncode == 0
            unopened += after is None
            lost += max(0, seen - (after or 0))
            unsound += not sound
            writing += seen > before
            before = max(seen, after or 0)
            if number % max(1, options.kills // SAMPLES) == 0:
                print(
                    f"  {number} kills: {before} rows of tests, {lost} lost, {unopened} times unopened",
                    flush=True,
                )
        orphans = [
            p for p in psutil.process_iter(["cmdline"]) if directory in " ".join(p.info["cmdline"] or ())
        ]
        print(
            f"{options.kills} kills -9, {writing} of them after rows of that run were committed: {lost} committed rows "
            f"lost, {unopened} times the file did not open, {unsound} times it did not verify, {len(orphans)} processes left"
        )
        return not (lost or unopened or unsound or orphans)


def one_kill(place: Path, history: Path, before: int, rng: random.Random) -> int:
    """A run that is killed some time after its first rows are seen; how many rows were seen at last."""
    command = [sys.executable, "-m", "pytest", "--browserpool", "-n2", "-q", "-p", "no:cacheprovider"]
    with (place / "out").open("wb") as out:
        run = subprocess.Popen(
            command, cwd=place, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    seen, give_up = before, time.monotonic() + 120
    while seen == before and run.poll() is None and time.monotonic() < give_up:
        seen = committed(history) or seen
        time.sleep(0.02)
    until = time.monotonic() + rng.uniform(0, 1.5)  # more than one flush further
    while time.monotonic() < until:
        seen = committed(history) or seen
        time.sleep(rng.uniform(0, 0.02))
    run.send_signal(signal.SIGKILL)
    run.wait(30)
    waited(lambda: None if workers_of(run.pid) else True)
    return seen


def workers_of(session: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def waited(look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What ``look`` finds, within ``seconds``; None if it finds nothing."""
    until = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < until:
        time.sleep(0.05)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["operations", "kills"], help="operations, kills, or both")
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=50, help="calls from one fault to the next")
    parser.add_argument("--browsers", default="chromium,firefox")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--tests", type=int, default=5_000, help="of the run that is killed")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    forms = {"operations": operations, "kills": kills}
    unknown = [what for what in options.what if what not in forms]
    if unknown:
        parser.error(f"{', '.join(unknown)} is none of {', '.join(forms)}")
    results = [forms[what](options) for what in options.what]
    print("all as it must be" if all(results) else "NOT as it must be")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
