"""A cross-encoder in transformers: pairs of a query and a text in, a relevance each out.

Blocks: the caller owns the thread.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from apps.core.errors import InvalidValue
from apps.local.embedding.bert import batches

LONGEST = 512
"""Tokens of a pair, where neither the tokenizer nor the model says less."""
MOST_QUERY = 0.75
"""A query may take so much of a pair: something must be left for the text."""


class CrossEncoder:
    """``source`` is a folder or a hub name of any BERT-like sequence-classification checkpoint with one or two labels.

    ``precision`` is bf16 where the CPU multiplies that itself. Raises ValueError for another kind of checkpoint.
    """

    def __init__(self, source: str, precision: Literal["auto", "bf16", "fp32"] = "auto") -> None:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        self.precision = ("bf16" if native else "fp32") if precision == "auto" else precision
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForSequenceClassification.from_pretrained(source, dtype=dtype, use_safetensors=True)
        if model.config.num_labels not in (1, 2):
            raise ValueError(f"a reranker has one label or two, and this one has {model.config.num_labels}")
        self._model = model.eval()
        self.longest = self._longest()

    def scores(self, query: str, texts: Sequence[str]) -> tuple[list[float], int]:
        """The relevance of each text, 0 to 1, in their order; and how many tokens were read.

        A text that is longer than a pair may be is read up to there. Raises InvalidValue for a query that leaves no
        room for one.
        """
        own = len(self._tokenizer(query, add_special_tokens=False)["input_ids"])
        if own > self.longest * MOST_QUERY:
            most = int(self.longest * MOST_QUERY)
            details = {"tokens": own, "max": most}
            raise InvalidValue(f"The query has {own} tokens; the model takes {most}", field="query", details=details)
        pairs = self._tokenizer([query] * len(texts), list(texts), truncation="only_second", max_length=self.longest)
        tokens: list[list[int]] = pairs["input_ids"]
        found = [0.0] * len(texts)
        for batch in batches(sorted(range(len(tokens)), key=lambda index: len(tokens[index])), tokens):
            inputs = {name: [values[index] for index in batch] for name, values in pairs.items()}
            padded = self._tokenizer.pad(inputs, return_tensors="pt")
            for index, score in zip(batch, self._forward(padded), strict=True):
                found[index] = score
        return found, sum(map(len, tokens))

    def _forward(self, inputs: Any) -> list[float]:
        with torch.inference_mode():
            logits = self._model(**inputs).logits.float()
            # of two labels the second is "relevant"
            relevance = torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)[:, 1]
        return [float(value) for value in relevance.tolist()]

    def _longest(self) -> int:
        config = self._model.config
        positions = int(getattr(config, "max_position_embeddings", LONGEST))
        # RoBERTa's positions begin after its padding
        if getattr(config, "position_embedding_type", "absolute") == "absolute" and "roberta" in config.model_type:
            positions -= int(config.pad_token_id) + 1
        return min(positions, int(self._tokenizer.model_max_length), LONGEST)
