"""What a lost shard costs, and what it leaves as it was: ``make bench-sharding``.

Each shard of a language model is killed at each of its steps, in each phase of a step, at each level of fault tolerance,
while the cache lies in the browsers. Every answer must have the bits of the undisturbed run, or fail with its history. The
model is a small one of the same build as SmolLM2, which ``--language`` takes instead. With ``--results`` what was found is
kept, and what is there already is not run again: the table at the end is of all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sharding_execution import PROMPT, STEP, load
from sharding_kills import Outcome, Unit, keep, kept, line, together

from pytest_browserpool.browsers.pool import Loaded
from pytest_browserpool.browsers.protocol import StateUse
from pytest_browserpool.config import Settings
from pytest_browserpool.errors import Fault
from pytest_browserpool.fixtures import ShardedModel
from pytest_browserpool.link import each_of
from pytest_browserpool.node.node import Node
from pytest_browserpool.node.session import ModelSession
from pytest_browserpool.sharding.execute import Answer
from pytest_browserpool.sharding.llm.config import LOGITS, LlamaConfig
from pytest_browserpool.sharding.llm.generate import cache_links, empty_cache, step_inputs
from pytest_browserpool.sharding.llm.llama import build
from pytest_browserpool.sharding.llm.made_up import made_up

SMALL = LlamaConfig(
    blocks=6,
    width=192,
    heads=6,
    kv_heads=2,
    hidden=512,
    vocabulary=512,
    rope_base=1e4,
    epsilon=1e-5,
    context=64,
)
"""Two blocks for each of three shards, quick to load, so that the time is that of the browsers."""

SEEN_SECONDS = 30.0
"""For the loss of a killed browser to be seen: its renderer may answer for some milliseconds more."""

COPY_SECONDS = 60.0
"""For the copies of level high to be made again before the next kill."""

PHASES = {
    "before": "between two steps, and seen before the next one begins",
    "computing": "with its command sent and not answered",
    "answered": "with its answer given and the rest of the step still to come; met by the next step",
}


@dataclass
class Language:
    """What is generated from."""

    name: str
    source: Any
    config: LlamaConfig
    prompt: Sequence[int]
    shapes: Mapping[str, Any]


def language(small: bool, folder: Path) -> Language:
    if small:
        path = folder / "small.onnx"
        build(SMALL, made_up(SMALL), path)
        shapes = {**STEP, SMALL.past[0]: (1, SMALL.kv_heads, 8, SMALL.head_size)}
        return Language("a small model", path, SMALL, [3, 1, 4, 1, 5], shapes)
    from pytest_browserpool.sharding.llm import smollm2
    from pytest_browserpool.sharding.llm.gguf_file import GgufLlama
    from pytest_browserpool.sharding.llm.tokens import Tokenizer

    weights = GgufLlama(smollm2.gguf_path())
    prompt = Tokenizer(weights).encode(PROMPT)
    return Language("SmolLM2-135M", smollm2.onnx_path, weights.config, prompt, STEP)


# -- killing --------------------------------------------------------------------------------------------------------


class Killer:
    """Kills the browser that runs one shard's commands: at once, or when its next one is under way or answered."""

    def __init__(self, node: Node, model: ShardedModel, unit: Unit) -> None:
        self._node, self._model, self._unit = node, model, unit
        self._armed = False
        self._pids: dict[str, list[int]] = {}
        self.browser = ""
        self._run_on = model._resident.run_on
        model._resident.run_on = self._watched  # type: ignore[method-assign]

    def arm(self, session: ModelSession) -> None:
        """The next kill. In phase "before" it is done, and seen, when this returns."""
        self._look()
        if self._unit.phase != "before":
            self._armed = True
            return
        page = self._kill(self._holding(session))
        until = time.monotonic() + SEEN_SECONDS
        while page.lost is None:
            assert time.monotonic() < until, f"the pool did not see that {self.browser} is gone"
            time.sleep(0.005)

    def _look(self) -> None:
        """The processes of each browser, so that all of one die at once: a renderer would outlive its browser for as long
        as a step takes."""
        for instance in self._node.pool.instances:
            # gone where an answer came before its kill: the next call meets that
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(instance.process.pid)
                self._pids[instance.identity] = [root.pid, *(c.pid for c in root.children(recursive=True))]

    def settled(self) -> None:
        """Level high: both copies are there again."""
        until = time.monotonic() + COPY_SECONDS
        while self._model._resident.copying:
            assert time.monotonic() < until, "the copies were not made again"
            time.sleep(0.05)

    def _holding(self, session: ModelSession) -> Loaded:
        """Where the shard's part of the state is: at level high a copy that took over keeps it until the next step."""
        lane: Any = self._model._resident.lanes[self._unit.shard]
        state: Any = session._state
        parts = [p for i, p in state._parts.items() if i in lane.stages and p._page is not None]
        pages = [p._page for p in parts if p._page.lost is None]
        held: list[Loaded] = [loaded for loaded in lane.held if loaded.page in pages]
        return (held or [lane.sessions[lane.stages[0]]])[0]

    def _kill(self, loaded: Loaded) -> Any:
        self.browser = loaded.instance.name
        if loaded.instance.identity not in self._pids:  # launched since, in place of one that was killed
            self._look()
        for pid in self._pids.get(loaded.instance.identity, ()):  # none: it died of the kill before
            with contextlib.suppress(ProcessLookupError):  # some end with their parents
                os.kill(pid, signal.SIGKILL)
        return loaded.page

    async def _watched(
        self, loaded: Loaded, number: int, tensors: Any, state: StateUse | None = None
    ) -> Answer:
        if not self._armed or number != self._unit.shard:
            return await self._run_on(loaded, number, tensors, state)
        self._armed = False
        if self._unit.phase == "answered":
            answer = await self._run_on(loaded, number, tensors, state)
            self._kill(loaded)
            return answer
        running = asyncio.ensure_future(self._run_on(loaded, number, tensors, state))
        await asyncio.sleep(0)  # it is on its way now
        self._kill(loaded)
        return await running


# -- one unit ---------------------------------------------------------------------------------------------------------


def undisturbed(session: ModelSession, spoken: Language, count: int) -> tuple[list[bytes], list[int]]:
    """The bits of each step's logits, and the tokens."""
    bits, tokens = list[bytes](), list[int]()
    for step in range(count):
        logits = session(inputs_of(step, tokens, spoken))[LOGITS]
        bits.append(logits.tobytes())
        tokens.append(int(np.argmax(logits)))
    return bits, tokens


def inputs_of(step: int, tokens: Sequence[int], spoken: Language) -> dict[str, Any]:
    """Of a step after the undisturbed ones before it: a wrong answer is told once, and the next one is on its own."""
    new = list(spoken.prompt) if step == 0 else [tokens[step - 1]]
    return dict(step_inputs(new, len(spoken.prompt) + step))


@contextlib.contextmanager
def opened(
    node: Node, spoken: Language, browsers: tuple[str, ...], level: str
) -> Iterator[tuple[ShardedModel, ModelSession]]:
    node.begin_test(f"kills {level}")
    try:
        model = load(node, spoken.source, browsers, input_shapes=spoken.shapes, fault_tolerance=level)
        with model.session(cache_links(spoken.config), initial=empty_cache(spoken.config)) as session:
            yield model, session
    finally:
        node.end_test()


def survived(
    node: Node, spoken: Language, browsers: tuple[str, ...], unit: Unit, count: int, faults: Faults
) -> Outcome:
    """The shard killed at each of the unit's steps: each loss is met by a state that has come back from the one before.
    Phase "answered" is met one step later, so a kill in the last of all steps would be met by nothing."""
    outcome = Outcome(unit)
    with opened(node, spoken, browsers, unit.level) as (model, session):
        undisturbed(session, spoken, count)  # warms the way with the state in the pages
        session.reset()
        bits, tokens = undisturbed(session, spoken, count)
        state = {name: array.tobytes() for name, array in session.state().items()}
        session.reset()
        killer = Killer(node, model, unit)
        late = unit.phase == "answered"
        kills = range(unit.steps[0], min(unit.steps[1], count - late))
        for step in range(count):
            killer.settled()
            if step in kills:
                killer.arm(session)
            before, started = faults.count(), time.perf_counter()
            got = session(inputs_of(step, tokens, spoken))[LOGITS].tobytes()
            took = time.perf_counter() - started
            if step - late in kills:
                outcome.kills += 1
                outcome.seconds.append(took)
                outcome.same += got == bits[step]
                if faults.count() == before:
                    print(f"    step {step}: no loss was met", file=sys.stderr)
            else:
                assert got == bits[step], f"step {step}, in which nothing was lost, gave other bits"
        outcome.browser, outcome.replayed = killer.browser, session.replayed
        left = {name: array.tobytes() for name, array in session.state().items()}
        assert left == state, "the state at the end has other bits"
    return outcome


def failed(
    node: Node, spoken: Language, browsers: tuple[str, ...], unit: Unit, count: int, faults: Faults
) -> Outcome:
    """Level none: at each step a model of its own, whose loss must end the request, with its history."""
    outcome = Outcome(unit)
    for step in range(*unit.steps):
        with opened(node, spoken, browsers, unit.level) as (model, session):
            bits, tokens = undisturbed(session, spoken, count)
            session.reset()
            for done in range(step):
                session(inputs_of(done, tokens, spoken))
            killer = Killer(node, model, unit)
            killer.arm(session)
            outcome.kills += 1
            before, started = faults.count(), time.perf_counter()
            try:
                for at in (step, step + 1) if unit.phase == "answered" else (step,):
                    started = time.perf_counter()
                    got = session(inputs_of(at, [*tokens, 0], spoken))[LOGITS].tobytes()
                    assert got == bits[at], f"step {at} gave other bits"
                print(f"    step {step}: no loss was met", file=sys.stderr)
            except Fault:
                outcome.told += faults.count() > before
            outcome.seconds.append(time.perf_counter() - started)
            outcome.browser = killer.browser
    return outcome


# -- all of them ------------------------------------------------------------------------------------------------------


class Faults:
    """What the node tells the history of lost browsers."""

    def __init__(self) -> None:
        self._told: list[dict[str, Any]] = []
        self.flush: Callable[[], None] = lambda: None

    def __call__(self, message: dict[str, Any]) -> None:
        self._told += [
            one["row"]
            for one in each_of(message)
            if one["kind"] == "record" and one["table"] in ("faults", "operations_log")
        ]

    def count(self) -> int:
        """Faults, and operations that ended with one."""
        self.flush()
        return len([row for row in self._told if row.get("strategy") or row.get("error")])


def run(
    node: Node, spoken: Language, browsers: tuple[str, ...], options: Any, faults: Faults
) -> list[Outcome]:
    """The units that are not there yet, as far as the time goes; each printed, and kept, as it ends."""
    done, until = kept(options.results), time.monotonic() + options.seconds
    units = [
        Unit(level, phase, int(shard), (first, min(first + options.at_once, options.steps)))
        for level in options.levels.split(",")
        for phase in options.phases.split(",")
        for shard in options.shards.split(",")
        for first in range(0, options.steps, options.at_once)
    ]
    left = [unit for unit in units if not any(unit.within(outcome.unit) for outcome in done)]
    for number, unit in enumerate(left):
        if time.monotonic() > until:
            print(f"{len(left) - number} units are left for another time")
            break
        kills = failed if unit.level == "none" else survived
        outcome = kills(node, spoken, browsers, unit, options.steps, faults)
        outcome.load = os.getloadavg()[0]
        print(line(outcome), flush=True)
        done.append(outcome)
        keep(outcome, options.results)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--browsers", default="chromium,firefox,headless-shell")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=16, help="steps with a kill in one go")
    parser.add_argument("--levels", default="none,low,medium,high")
    parser.add_argument("--phases", default="before", help=f"of {', '.join(PHASES)}")
    parser.add_argument("--shards", default="0,1,2")
    parser.add_argument("--results", type=Path, help="keeps the lines there, and goes on where they end")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begins nothing more after so many")
    parser.add_argument("--language", action="store_true", help="SmolLM2-135M in place of the small model")
    options = parser.parse_args()
    faults = Faults()
    node = Node(Settings(rootdir=str(Path.cwd()), db=""), "bench", faults)
    faults.flush = node.report.flush
    with contextlib.closing(node), tempfile.TemporaryDirectory() as folder:
        have = tuple(b.name for b in node.capabilities().browsers if b.name in options.browsers.split(","))
        spoken = language(not options.language, Path(folder))
        print(f"{spoken.name} over {' + '.join(have)}, {options.steps} steps, a cache in the pages")
        done = run(node, spoken, have, options, faults)
    print("\n| level | killed | shard | steps | kills | came to | median s | worst s | run again | load |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for outcome in together(done):
        print(line(outcome))
    wrong = [outcome for outcome in done if not outcome.right]
    if wrong:
        raise SystemExit(f"not all is as it should be: {', '.join(str(o.unit) for o in wrong)}")


if __name__ == "__main__":
    main()
