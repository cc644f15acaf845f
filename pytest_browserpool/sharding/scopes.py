"""Components by name: which part of a model (embedding, encoder, decoder, head) a node's names say it belongs
to.
"""

from __future__ import annotations

import re

from pytest_browserpool.sharding.graph import Graph

COMPONENTS = ("embedding", "encoder", "decoder", "head")
"""In the order in which data flows through them."""

_START, _END = r"(?:^|[./:])", r"(?:$|[./:\d])"
_EMBEDDING = re.compile(rf"embed|{_START}(?:wte|wpe|token_emb|tok_emb|stem){_END}")
_HEAD = re.compile(
    rf"{_START}(?:(?:lm|mlm|cls|classification|prediction)_)?head{_END}"
    rf"|{_START}(?:classifier|logits|pooler|fc_out|final_norm|output_norm|final_layer_?norm|ln_f){_END}"
)
_ENCODER = re.compile(rf"encoder|{_START}(?:backbone|trunk|features){_END}")
_DECODER = re.compile(rf"decoder|{_START}(?:layers?|blocks?|blk|h)[./_]\d")
_LAYER = re.compile(rf"{_START}(?:layers?|blocks?|blk|h|stages?)[./_]?(\d+)")

_STRIDE = 1_000_000
"""Room for layer numbers between two components."""


def component_of(scope: str) -> str | None:
    """The component that a name speaks of; None where it does not say.

    ``model.decoder.embed_tokens`` is an embedding, ``decoder.layers.0.encoder_attn`` a part of the decoder.
    """
    text = scope.lower()
    layer = _LAYER.search(text)
    end = (
        layer.start() if layer else len(text)
    )  # what stands inside a layer belongs to it, whatever it is called
    if not layer and _HEAD.search(text):
        return "head"
    if _EMBEDDING.search(text[:end]):
        return "embedding"
    encoder, decoder = _ENCODER.search(text), _DECODER.search(text)
    if encoder and (not decoder or encoder.start() < decoder.start()):
        return "encoder"
    return "decoder" if decoder else None


def layer_of(scope: str) -> int:
    """The number of the layer in a name, counted from 1; 0 where there is none."""
    found = _LAYER.search(scope.lower())
    return int(found.group(1)) + 1 if found else 0


def scope_ranks(graph: Graph, *, layers: bool) -> list[int | None]:
    """Where each node stands in the model by its names: its component and, with ``layers``, its layer
    within.
    """
    ranks: list[int | None] = []
    for node in graph.nodes:
        said = next(((c, text) for text in (node.name, node.scope) if (c := component_of(text))), None)
        if said is None:
            ranks.append(None)
            continue
        component, text = said
        ranks.append(COMPONENTS.index(component) * _STRIDE + (layer_of(text) if layers else 0))
    return ranks


def component_at(rank: int) -> str:
    """The component of a rank."""
    return COMPONENTS[rank // _STRIDE]
