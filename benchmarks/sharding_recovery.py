"""What a lost shard costs, and what it leaves as it was: ``make bench-sharding``.

Each shard of a language model is killed before each of its steps, at each level of fault tolerance, while the cache lies in
the browsers: the tokens must be those of the undisturbed run, and the seconds of the step that brought the shard back are
told. The model is a small one of the same build as SmolLM2, which ``--language`` takes instead.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sharding_execution import PROMPT, STEP, load

from pytest_browserpool.config import Settings
from pytest_browserpool.fixtures import ShardedModel
from pytest_browserpool.node.node import Node
from pytest_browserpool.node.session import ModelSession
from pytest_browserpool.sharding.llm.config import LlamaConfig
from pytest_browserpool.sharding.llm.generate import cache_links, empty_cache, greedy, greedy_session_steps
from pytest_browserpool.sharding.llm.llama import build

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


def small_weights(name: str) -> Any:
    """Random weights in GGUF's names and shapes; each name has its own."""
    c = SMALL
    shapes = {
        "token_embd": (c.vocabulary, c.width),
        "output_norm": (c.width,),
        "attn_norm": (c.width,),
        "ffn_norm": (c.width,),
        "attn_q": (c.width, c.width),
        "attn_k": (c.kv_heads * c.head_size, c.width),
        "attn_v": (c.kv_heads * c.head_size, c.width),
        "attn_output": (c.width, c.width),
        "ffn_gate": (c.hidden, c.width),
        "ffn_up": (c.hidden, c.width),
        "ffn_down": (c.width, c.hidden),
    }
    shape = shapes[name.removesuffix(".weight").rpartition(".")[2]]
    generator = np.random.default_rng(list(name.encode()))
    spread = 1.0 if len(shape) == 1 else 2.0 / shape[1] ** 0.5
    return (generator.standard_normal(shape) * spread).astype(np.float32)


def kill(node: Node, model: ShardedModel, session: ModelSession, number: int) -> str:
    """SIGKILL for the browser that has that shard's part of the state, seen by the pool; its name.

    At level high a copy that took over keeps the state until the next step, so that is not always the shard's own.
    """
    until = time.monotonic() + COPY_SECONDS
    while model._resident.copying:
        assert time.monotonic() < until, "the copies were not made again"
        time.sleep(0.05)
    lane = model._resident.lanes[number]
    page = lane.sessions[lane.stages[0]].page
    for part in (p for i, p in session._state._parts.items() if i in lane.stages and p._page is not None):
        page = part._page if part._page.lost is None else page
    instance = next(i for i in node.pool.instances if page in i.pages.values())
    os.kill(instance.process.pid, signal.SIGKILL)
    until = time.monotonic() + SEEN_SECONDS
    while page.lost is None:
        assert time.monotonic() < until, f"the pool did not see that {instance.identity} is gone"
        time.sleep(0.005)
    return str(instance.name)


def killed_at_each_step(
    node: Node, model: ShardedModel, config: LlamaConfig, prompt: Sequence[int], count: int, level: str
) -> None:
    """Prints how many kills left the tokens as they were, and what they took."""
    expected = greedy(model, config, prompt, count)
    seconds: dict[str, list[float]] = {}
    usual: list[float] = []
    right = kills = 0
    with model.session(cache_links(config), initial=empty_cache(config)) as session:
        for _ in range(2):  # the second one warms the page-resident way
            steps = greedy_session_steps(session, prompt)
            for _ in range(count):
                started = time.perf_counter()
                next(steps)
                usual.append(time.perf_counter() - started)
            session.reset()
        for number in range(len(model.shards)):
            steps = greedy_session_steps(session, prompt)
            for token in expected:
                name = kill(node, model, session, number)
                kills += 1
                started = time.perf_counter()
                right += next(steps) == token
                seconds.setdefault(name, []).append(time.perf_counter() - started)
            print(
                f"          shard {number}: {right} of {kills} kills so far gave the same token", flush=True
            )
            session.reset()
        replayed = session.replayed
    every = [s for times in seconds.values() for s in times]
    print(
        f"  {level:7} {right} of {kills} kills gave the same token; median {statistics.median(every):.2f} s, "
        f"worst {max(every):.2f} s, {replayed} steps run again in all; a step without a fault "
        f"{statistics.median(usual) * 1000:.0f} ms"
    )
    print("          " + ", ".join(f"{name} {statistics.median(t):.2f} s" for name, t in seconds.items()))
    if right != kills or kills != count * len(model.shards):
        raise SystemExit(f"{kills - right} of {kills} kills changed a token")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--browsers", default="chromium,firefox,headless-shell")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--levels", default="low,medium,high")
    parser.add_argument("--language", action="store_true", help="SmolLM2-135M in place of the small model")
    options = parser.parse_args()
    node = Node(Settings(rootdir=str(Path.cwd()), db=""), "bench", lambda message: None)
    with contextlib.closing(node), tempfile.TemporaryDirectory() as folder:
        have = tuple(b.name for b in node.capabilities().browsers if b.name in options.browsers.split(","))
        if options.language:
            from pytest_browserpool.sharding.llm import smollm2
            from pytest_browserpool.sharding.llm.gguf_file import GgufLlama
            from pytest_browserpool.sharding.llm.tokens import Tokenizer

            weights = GgufLlama(smollm2.gguf_path())
            source: Any = smollm2.onnx_path
            config, prompt, shapes = weights.config, Tokenizer(weights).encode(PROMPT), dict(STEP)
        else:
            source, config, prompt = Path(folder) / "small.onnx", SMALL, [3, 1, 4, 1, 5]
            build(config, small_weights, source)
            shapes = {**STEP, config.past[0]: (1, config.kv_heads, 8, config.head_size)}
        print(
            f"{'SmolLM2-135M' if options.language else 'a small model'} over {' + '.join(have)}, a cache in the pages,"
        )
        print(f"each shard killed before each of {options.steps} steps")
        for level in options.levels.split(","):
            node.begin_test(f"kills {level}")
            try:
                model = load(node, source, have, input_shapes=shapes, fault_tolerance=level)
                killed_at_each_step(node, model, config, prompt, options.steps, level)
            finally:
                node.end_test()


if __name__ == "__main__":
    main()
