"""The real language model: its graph against plain NumPy, and the same greedy tokens sharded as whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharding_graphs import SMALL, small_weights

from pytest_browserpool.errors import SourceError
from pytest_browserpool.sharding.blocks import attention_regions
from pytest_browserpool.sharding.llm.config import LOGITS
from pytest_browserpool.sharding.llm.generate import greedy, greedy_steps, step_inputs
from pytest_browserpool.sharding.llm.llama import build
from pytest_browserpool.sharding.llm.reference import NumpyLlama
from pytest_browserpool.sharding.native import NativeShards, NativeWhole
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host
from pytest_browserpool.sharding.read import read
from pytest_browserpool.sharding.split import write_segments

STEP = {"new": 1, "past": 8, "total": 9}

TOKENS = 8
"""That the real model generates, three times: a step reads half a gigabyte of weights."""

HOSTS = [Host(name=f"browser{i}") for i in range(3)]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "small.onnx"
    build(SMALL, small_weights, path)
    return path


def test_the_graph_computes_what_the_papers_say(small_model: Path) -> None:
    prompt, config = [3, 17, 42, 5, 60], SMALL
    reference = NumpyLlama(config, small_weights)
    whole = NativeWhole(small_model)
    cache = dict.fromkeys(config.past, np.zeros((1, config.kv_heads, 0, config.head_size), np.float32))
    new, total = list(prompt), len(prompt)
    for _ in range(8):
        outputs = whole.run({**step_inputs(new, total), **cache})
        expected = reference.step(new)
        np.testing.assert_allclose(outputs[LOGITS][0], expected, rtol=1e-4, atol=1e-5)
        cache = {p: outputs[q] for p, q in zip(config.past, config.present, strict=True)}
        new, total = [int(expected.argmax())], total + 1


def test_the_cache_changes_nothing(small_model: Path) -> None:
    """A prompt at once, and the same prompt token by token."""
    whole, config, prompt = NativeWhole(small_model), SMALL, [3, 17, 42, 5]
    empty = dict.fromkeys(config.past, np.zeros((1, config.kv_heads, 0, config.head_size), np.float32))
    at_once = whole.run({**step_inputs(prompt, 4), **empty})
    cache: dict[str, Any] = dict(empty)
    for position, token in enumerate(prompt):
        outputs = whole.run({**step_inputs([token], position + 1), **cache})
        cache = {p: outputs[q] for p, q in zip(config.past, config.present, strict=True)}
    np.testing.assert_allclose(outputs[LOGITS], at_once[LOGITS], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["layer_balanced", "component", "attention_feedforward"])
def test_sharded_generation_is_bit_identical(small_model: Path, strategy: str, tmp_path: Path) -> None:
    source = read(small_model, dimensions=STEP, resident=[*SMALL.past, *SMALL.present])
    plan = partition(source.graph, HOSTS, 3, strategy)
    shards = NativeShards(write_segments(source, plan, tmp_path), source.graph.outputs)
    whole = NativeWhole(small_model)
    config, prompt = SMALL, [3, 17, 42, 5, 60]
    caches = [dict.fromkeys(config.past, np.zeros((1, config.kv_heads, 0, config.head_size), np.float32))] * 2
    new, total = list(prompt), len(prompt)
    for _ in range(16):
        left, right = (
            run({**step_inputs(new, total), **cache})
            for run, cache in zip((whole.run, shards.run), caches, strict=True)
        )
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)
        caches = [
            {p: out[q] for p, q in zip(config.past, config.present, strict=True)} for out in (left, right)
        ]
        new, total = [int(left[LOGITS].argmax())], total + 1


def test_the_blocks_of_the_graph_are_found(small_model: Path) -> None:
    graph = read(small_model, dimensions=STEP).graph
    regions = attention_regions(graph)
    assert len(regions) == SMALL.blocks
    for number, region in enumerate(regions):
        names = {graph.nodes[p].name for p in region}
        inside = {n.name for n in graph.nodes if n.name.startswith(f"/model/layers.{number}/self_attn")}
        norm = {n.name for n in graph.nodes if n.name.startswith(f"/model/layers.{number}/input_layernorm")}
        assert names == inside | norm


def test_tokens_come_for_ever_and_on_demand(small_model: Path) -> None:
    whole = NativeWhole(small_model)
    steps = greedy_steps(whole.run, SMALL, [1, 2])
    assert [next(steps) for _ in range(5)] == greedy(whole.run, SMALL, [1, 2], 5)


@pytest.fixture(scope="module")
def smollm2() -> Path:
    for package in ("gguf", "tokenizers"):
        pytest.importorskip(package, reason="the extra pytest-browserpool[llm] is not installed")
    from pytest_browserpool.sharding.llm import smollm2

    try:
        return smollm2.onnx_path()
    except SourceError as error:
        pytest.skip(f"the weights cannot be had: {error.what}")


@pytest.fixture(scope="module")
def weights(smollm2: Path) -> Any:
    from pytest_browserpool.sharding.llm.gguf_file import GgufLlama
    from pytest_browserpool.sharding.llm.smollm2 import gguf_path

    return GgufLlama(gguf_path())


@pytest.fixture(scope="module")
def tokenizer(weights: Any) -> Any:
    from pytest_browserpool.sharding.llm.tokens import Tokenizer

    return Tokenizer(weights)


@pytest.mark.slow
def test_smollm2_says_paris_in_three_shards_as_whole(
    smollm2: Path, weights: Any, tokenizer: Any, tmp_path: Path
) -> None:
    config = weights.config
    prompt = tokenizer.encode("The capital of France is")
    assert prompt == [504, 3575, 282, 4649, 314]
    assert tokenizer.decode(prompt) == "The capital of France is"
    whole = greedy(NativeWhole(smollm2).run, config, prompt, TOKENS)
    assert tokenizer.decode(whole).startswith(" Paris.")
    source = read(
        smollm2, dimensions={"new": 1, "past": 16, "total": 17}, resident=[*config.past, *config.present]
    )
    plan = partition(source.graph, HOSTS, 3)
    assert plan.bottleneck_s < 1.05 * plan.lower_bound_s
    assert plan.duplicated_bytes >= config.vocabulary * config.width * 4  # the tied embedding, twice
    shards = NativeShards(write_segments(source, plan, tmp_path), source.graph.outputs)
    assert greedy(shards.run, config, prompt, TOKENS) == whole
    reference = NumpyLlama(config, weights.tensor)
    tokens, new = [], list(prompt)
    for _ in range(TOKENS):
        new = [int(reference.step(new).argmax())]
        tokens += new
    assert tokens == whole


@pytest.mark.slow
def test_smollm2_words_and_control_tokens(tokenizer: Any) -> None:
    for text in (
        "In 1969, 3 men",
        "  two spaces\n\ttab",
        "naïve café – 東京 🙂",
        "def f(x):\n    return x**2",
        "",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("1969")) == 4  # digits one by one
    assert tokenizer.encode("<|im_start|>user") == [1, *tokenizer.encode("user")]
