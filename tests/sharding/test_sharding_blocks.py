"""Attention and feed-forward blocks by structure, components by name, and how long operators take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sharding_graphs import transformer

from pytest_browserpool.errors import ShardingError
from pytest_browserpool.sharding import costs
from pytest_browserpool.sharding.blocks import attention_regions, phases
from pytest_browserpool.sharding.native import check, feeds_for
from pytest_browserpool.sharding.partition import partition
from pytest_browserpool.sharding.plan import Host, Plan
from pytest_browserpool.sharding.read import Source, read
from pytest_browserpool.sharding.scopes import component_of, layer_of
from pytest_browserpool.sharding.split import write_segments

HOSTS = [Host(name=f"browser{i}") for i in range(6)]


def small(blocks: int = 3, *, named: bool = True) -> Source:
    return read(transformer(blocks, named=named), {"tokens": (2, 5)})


def outputs(source: Source, positions: set[int]) -> set[str]:
    return {name for p in positions for name in source.graph.nodes[p].outputs}


def test_an_attention_block_is_found_without_names() -> None:
    source = small(named=False)
    regions = attention_regions(source.graph)
    assert [outputs(source, region) for region in regions] == [
        {
            f"{part}{k}"
            for part in (
                "n",
                "q",
                "qs",
                "qt",
                "k",
                "ks",
                "kt",
                "v",
                "vs",
                "vt",
                "scores",
                "soft",
                "mixed",
                "mt",
                "mr",
                "o",
                "res",
            )
        }
        for k in range(3)
    ]
    found = phases(source.graph, regions)
    by_name = {name: found[p] for p, node in enumerate(source.graph.nodes) for name in node.outputs}
    assert [by_name[n] for n in ("embedded", "q0", "res0", "up0", "out0", "q1", "up1", "logits")] == [
        0,
        1,
        1,
        2,
        2,
        3,
        4,
        6,
    ]


def test_real_attention_blocks_are_found(real_model: Callable[[str], tuple[Path, Any]]) -> None:
    path, shapes = real_model("minilm")
    graph = read(path, shapes).graph
    regions = attention_regions(graph)
    assert len(regions) == 6
    for region in regions:
        assert sum(graph.nodes[p].weighted for p in region) == 4  # query, key, value, output
        assert sum(graph.nodes[p].op == "Softmax" for p in region) == 1


def test_attention_and_feed_forward_are_on_different_shards(tmp_path: Path) -> None:
    source = small(named=False)
    for shards in (2, 3, 4):
        plan = partition(source.graph, HOSTS[:shards], shards, "attention_feedforward")
        files = write_segments(source, plan, tmp_path / str(shards))
        assert check(source, files, feeds_for(source)).identical
        kinds = [kinds_of(source, plan, shard) for shard in range(shards)]
        assert {"attention"} in kinds
        assert {"feed-forward"} in kinds
        assert {"attention", "feed-forward"} not in kinds


def kinds_of(source: Source, plan: Plan, shard: int) -> set[str]:
    ops = {source.model.graph.node[i].op_type for s in plan.segments if s.shard == shard for i in s.nodes}
    return ({"attention"} if "Softmax" in ops else set()) | ({"feed-forward"} if "Relu" in ops else set())


def test_attention_feedforward_has_a_largest_number() -> None:
    with pytest.raises(ShardingError, match=r"1 attention blocks and 2 groups(.|\n)*shards=3"):
        partition(small(1).graph, HOSTS, 6, "attention_feedforward")


def test_components_by_name(tmp_path: Path) -> None:
    source = small()
    plan = partition(source.graph, HOSTS[:3], 3, "component")
    first = [source.model.graph.node[s.nodes[0]].name for s in plan.segments]
    assert first == ["/model/embed_tokens/embedded", "/model/layers.0/attention/n0", "/model/lm_head/logits"]
    # the table is in the first shard as rows and in the last one turned round
    assert plan.duplicated_bytes == 32 * 16 * 4
    files = write_segments(source, plan, tmp_path)
    assert check(source, files, feeds_for(source)).identical
    finer = partition(source.graph, HOSTS[:5], 5, "component")
    assert len(finer.segments) == 5
    for segment in finer.segments:  # a layer is never cut
        layers = {layer_of(source.model.graph.node[i].name) for i in segment.nodes} - {0}
        for other in finer.segments:
            if other.index != segment.index:
                assert not layers & ({layer_of(source.model.graph.node[i].name) for i in other.nodes} - {0})
    with pytest.raises(ShardingError, match=r"embedding, decoder, head(.|\n)*shards=5"):
        partition(source.graph, HOSTS[:6], 6, "component")


def test_auto_takes_the_best_and_tells_of_all() -> None:
    source = small()
    plan = partition(source.graph, HOSTS[:3], 3, "auto")
    told = {c.strategy: c.bottleneck_s for c in plan.considered}
    assert set(told) == {"layer_balanced", "component", "attention_feedforward"}
    assert plan.bottleneck_s == min(v for v in told.values() if v is not None)
    unnamed = partition(small(named=False).graph, HOSTS[:3], 3, "auto")
    assert "names tell only of embedding" in next(
        c.refused for c in unnamed.considered if c.strategy == "component"
    )


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("/model/embed_tokens/Gather", "embedding"),
        ("model.decoder.embed_tokens.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("/model/layers.3/self_attn/by_head/Reshape", "decoder"),
        ("/model/layers.3/mlp/head/MatMul", "decoder"),
        ("transformer.h.11.attn", "decoder"),
        ("encoder.layers.0.fc1", "encoder"),
        ("decoder.layers.0.encoder_attn.k_proj", "decoder"),
        ("/backbone/conv1/Conv", "encoder"),
        ("/lm_head/MatMul", "head"),
        ("classifier.weight", "head"),
        ("multihead_norm", None),
        ("Conv_12", None),
        ("", None),
    ],
)
def test_names_and_components(name: str, component: str | None) -> None:
    assert component_of(name) == component


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "flops"),
    [
        ("Conv", [(1, 3, 8, 8), (16, 3, 3, 3)], (1, 16, 8, 8), {}, 2 * 16 * 64 * 27),
        ("Conv", [(1, 16, 8, 8), (16, 1, 3, 3)], (1, 16, 8, 8), {}, 2 * 16 * 64 * 9),  # depthwise
        ("MatMul", [(2, 5, 7), (7, 3)], (2, 5, 3), {}, 2 * 30 * 7),
        ("Gemm", [(7, 5), (7, 3)], (5, 3), {"transA": 1}, 2 * 15 * 7),
        ("com.microsoft.MatMulNBits", [(1, 64), (10, 2, 16)], (1, 10), {"K": 64}, 2 * 10 * 64),
        ("LSTM", [(6, 2, 8), (1, 16, 8), (1, 16, 4)], (6, 1, 2, 4), {}, 2 * 12 * (128 + 64)),
        ("Reshape", [(2, 6)], (3, 4), {}, 0),
        ("Add", [None, None], (3, 4), {}, 12),
        ("Conv", [None, None], None, {}, 0),
    ],
)
def test_arithmetic(
    op: str, inputs: list[Any], output: Any, attributes: dict[str, Any], flops: float
) -> None:
    assert costs.flops(op, inputs, [output], attributes) == flops


def test_an_embedding_does_not_read_its_table_through() -> None:
    table, rows = 100_000_000, 4096
    assert costs.moved("Gather", [table, 8], [rows]) == 2 * rows + 8
    assert costs.moved("Add", [rows, rows], [rows]) == 3 * rows
