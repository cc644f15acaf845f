"""A language model over three browsers: SmolLM2-135M goes on from a plain fact, as it does whole.

Its weights are 538 MB as float32, so these tests take minutes on a slow machine: ``make demo-language`` runs them.
"""

from __future__ import annotations

from types import SimpleNamespace

import onnxruntime
import pytest

from pytest_browserpool.errors import BrowserPoolError
from pytest_browserpool.sharding.llm import smollm2
from pytest_browserpool.sharding.llm.generate import cache_links, empty_cache, greedy, greedy_session

pytestmark = pytest.mark.slow

PROMPT = "The capital of France is"
COUNT = 16

SHAPES = {"input_ids": (1, 1), "attention_mask": (1, 9), "past_key_values.0.key": (1, 3, 8, 64)}
"""One token after eight others: what the cut is balanced for. The shards take any number of tokens."""


@pytest.fixture(scope="session")
def smollm():
    """Tokenizer, configuration, and the tokens that native onnxruntime goes on with."""
    pytest.importorskip("gguf", reason="needs pytest-browserpool[llm]")
    pytest.importorskip("tokenizers", reason="needs pytest-browserpool[llm]")
    from pytest_browserpool.sharding.llm.gguf_file import GgufLlama
    from pytest_browserpool.sharding.llm.tokens import Tokenizer

    try:
        path = smollm2.onnx_path()
    except BrowserPoolError as error:
        pytest.skip(f"the weights cannot be had: {error.what}")
    weights = GgufLlama(smollm2.gguf_path())
    tokenizer = Tokenizer(weights)
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]

    def native(inputs):
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    prompt = tokenizer.encode(PROMPT)
    tokens = greedy(native, weights.config, prompt, COUNT)
    return SimpleNamespace(config=weights.config, tokenizer=tokenizer, prompt=prompt, tokens=tokens)


def goes_on(model, smollm):
    tokens = greedy(model, smollm.config, smollm.prompt, COUNT)
    assert smollm.tokenizer.decode(tokens).startswith(" Paris.")
    assert tokens == smollm.tokens
    return tokens


@pytest.mark.usefixtures("smollm")
@pytest.mark.model(
    smollm2.onnx_path,
    id="smollm2-135m",
    type="large_language_model",
    shards=3,
    backends=["wasm"],
    input_shapes=SHAPES,
    timeout=180,
)
def test_a_language_model_over_three_browsers_says_paris(smollm, model):
    goes_on(model, smollm)
    assert len(model.shards) == 3
    assert len({shard.browser.name for shard in model.shards}) >= 2
    assert all(shard.calls == COUNT for shard in model.shards)


@pytest.mark.usefixtures("smollm")
@pytest.mark.model(
    smollm2.onnx_path,
    id="smollm2-135m",
    type="large_language_model",
    shards=3,
    backends=["wasm"],
    input_shapes=SHAPES,
    timeout=180,
)
def test_with_its_cache_in_the_browsers_it_says_the_same(smollm, model):
    with model.session(cache_links(smollm.config), initial=empty_cache(smollm.config)) as session:
        assert greedy_session(session, smollm.prompt, COUNT) == smollm.tokens
    # carried along, the cache would be 46 KB for each token so far, at each step: 3 MB for each shard
    assert all(0 < shard.bytes_in < 500_000 for shard in model.shards)


@pytest.mark.usefixtures("smollm")
@pytest.mark.model(
    smollm2.onnx_path, id="smollm2-135m-whole", type="large_language_model", backends=["wasm"], timeout=180
)
def test_whole_in_one_browser_it_says_the_same(smollm, model):
    goes_on(model, smollm)
