"""Text to tokens and back with the vocabulary that a GGUF file carries; needs ``tokenizers`` (extra
``llm``).
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_browserpool.errors import ConfigurationError, InvalidModel
from pytest_browserpool.sharding.llm.gguf_file import GgufLlama

CONTROL = 3
"""GGUF's type of a token that is no text, such as <|im_start|>."""


class Tokenizer:
    """Byte-level BPE as GGUF's ``gpt2`` model with the ``smollm`` pre-tokenizer: digits one by one, then
    GPT-2's pattern.
    """

    def __init__(self, model: GgufLlama) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ConfigurationError(
                "the package tokenizers is not installed", remedy="pip install 'pytest-browserpool[llm]'"
            ) from error
        kind = (model.field("tokenizer.ggml.model"), model.field("tokenizer.ggml.pre"))
        if kind != ("gpt2", "smollm"):
            raise InvalidModel(
                f"{model.path.name} has a tokenizer of kind {kind}", remedy="only ('gpt2', 'smollm') is known"
            )
        words: list[str] = model.field("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ", 1)) for merge in model.field("tokenizer.ggml.merges")]
        self._bpe = tokenizers.Tokenizer(
            tokenizers.models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges)
        )
        pre = tokenizers.pre_tokenizers
        self._bpe.pre_tokenizer = pre.Sequence(
            [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
        self._bpe.decoder = tokenizers.decoders.ByteLevel()
        types = model.field("tokenizer.ggml.token_type")
        self._bpe.add_special_tokens(
            [word for word, kind in zip(words, types, strict=True) if kind == CONTROL]
        )

    def encode(self, text: str) -> list[int]:
        """Token numbers; control words such as <|im_start|> become their token."""
        numbers: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return numbers

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, control tokens included."""
        text: str = self._bpe.decode(list(tokens), skip_special_tokens=False)
        return text
