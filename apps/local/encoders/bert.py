"""Encoders of BERT's kind in transformers: texts in, vectors out, and pairs of a query and a text in, relevance out.

A sentence encoder's vectors are pooled and L2-normalised; a cross-encoder gives a relevance to each pair. Both block:
the caller owns the thread.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertModel

from apps.core.errors import InvalidValue
from apps.core.process import available_cpus

UNKNOWN = ("[UNK]", "<unk>")
BATCH_TEXTS = 64
# eight texts of full length: twice that is slower, since it no longer fits into the caches
BATCH_TOKENS = 2048
# a question is computed by half of the cores: more gain little while the weights come from memory, they wait for each
# other where other work runs, and the words of the question are looked for meanwhile (eval.rag_speed)
FEW_TOKENS = 64


class Bert:
    """``folder`` is a checkpoint with a tokenizer.json. ``precision`` is bf16 where the CPU multiplies that itself.

    ``pooling``: a text's vector is the mean of its tokens' or the first one's.
    """

    def __init__(
        self,
        folder: Path,
        precision: Literal["auto", "bf16", "fp32"] = "auto",
        pooling: Literal["mean", "cls"] = "mean",
    ) -> None:
        self._pooling = pooling
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        self.precision = ("bf16" if native else "fp32") if precision == "auto" else precision
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        # built and filled by hand: from_pretrained writes a progress bar and a report to the terminal
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model = BertModel(config) if config.model_type == "bert" else AutoModel.from_config(config)
        _fill(model, load_file(folder / "model.safetensors"))
        self._padding = int(config.pad_token_id or 0)
        self._model = model.to(dtype).eval()
        self._short = ShortText(self._model) if ShortText.takes(self._model) else None
        self.vocabulary_size = int(model.config.vocab_size)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # a text is measured, never cut
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text, the two special tokens included."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        """Of each text, the share of its tokens that are the unknown one; special tokens are not counted."""
        unknown = next((id for text in UNKNOWN if (id := self._tokenizer.token_to_id(text)) is not None), None)
        counted = [ids[1:-1] for ids in self.tokens(texts)]
        return [sum(id == unknown for id in ids) / len(ids) if ids else 0.0 for ids in counted]

    def embed(self, tokens: Sequence[list[int]], cancelled: Callable[[], bool] = lambda: False) -> list[list[float]]:
        """Vectors in the order of the texts; none at all where it was cancelled between two batches.

        ``cancelled`` is asked before each batch, and may take its time.
        """
        vectors: list[list[float]] = [[] for _ in tokens]
        # texts of like length share a batch, so that little is padded
        for batch in batches(sorted(range(len(tokens)), key=lambda i: len(tokens[i])), tokens):
            if cancelled():
                return []
            for index, vector in zip(batch, self._encode([tokens[i] for i in batch]), strict=True):
                vectors[index] = vector
        return vectors

    def _encode(self, tokens: list[list[int]]) -> list[list[float]]:
        length = max(map(len, tokens))
        few = length * len(tokens) <= FEW_TOKENS
        mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in tokens])
        # of the thread that calls
        torch.set_num_threads(max(available_cpus() // 2, 1) if few else available_cpus())
        with torch.inference_mode():
            if few and len(tokens) == 1 and self._short is not None:
                hidden = self._short(tokens[0])
            else:
                ids = torch.tensor([text + [self._padding] * (length - len(text)) for text in tokens])
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weights = mask.unsqueeze(-1).float()
            pooled = hidden[:, 0] if self._pooling == "cls" else (hidden * weights).sum(1) / weights.sum(1)
            vectors: Any = torch.nn.functional.normalize(pooled, dim=1)
        return [[float(value) for value in row] for row in vectors.tolist()]


class ShortText:
    """A BERT's layers for one short text, in fp32: two thirds of the time that transformers' own take for it.

    The weights are packed once, where MKL packs them at each call: a second copy of the layers' weights, 42 MB of
    MiniLM. Queries, keys and values are one product, activations and sums are part of theirs, and nothing is padded or
    masked. Vectors are the model's own but for the last bits (a cosine over 0.999999).
    """

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether its layers are those that are computed here, and torch is built with oneDNN."""
        is_plain = isinstance(model, BertModel) and model.config.hidden_act == "gelu" and not model.config.is_decoder
        return is_plain and model.dtype == torch.float32 and bool(torch.backends.mkldnn.is_available())

    def __init__(self, model: Any) -> None:
        self._heads = int(model.config.num_attention_heads)
        self._words = model.embeddings.word_embeddings.weight
        self._norm = model.embeddings.LayerNorm
        with torch.inference_mode():
            # one text is all of one type
            types = model.embeddings.token_type_embeddings.weight[0]
            self._places = model.embeddings.position_embeddings.weight + types
            self._layers = [_packed_layer(layer) for layer in model.encoder.layer]

    def __call__(self, tokens: list[int]) -> torch.Tensor:
        """The last layer, with one text in its first dimension."""
        count = len(tokens)
        words = torch.nn.functional.embedding(torch.tensor(tokens), self._words)
        hidden: Any = self._norm(words + self._places[:count])
        for attention, attended, attention_norm, inner, outer, norm in self._layers:
            heads = _linear(hidden, attention).view(1, count, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            mixed = torch.nn.functional.scaled_dot_product_attention(*heads.unbind())
            hidden = attention_norm(_linear_added(mixed.transpose(1, 2).reshape(count, -1), attended, hidden))
            hidden = norm(_linear_added(_linear(hidden, inner, "gelu"), outer, hidden))
        return hidden.unsqueeze(0)


Packed = tuple[torch.Tensor, torch.Tensor]
"""A linear layer's weights as oneDNN multiplies them, and its bias."""


def _packed_layer(layer: Any) -> tuple[Any, ...]:
    own, after = layer.attention.self, layer.attention.output
    attention = [torch.cat([getattr(part, name) for part in (own.query, own.key, own.value)]) for name in NAMES]
    rest = [[getattr(part.dense, name) for name in NAMES] for part in (after, layer.intermediate, layer.output)]
    first, second, inner, outer = (_packed(weight, bias) for weight, bias in (attention, *rest))
    return first, second, after.LayerNorm, inner, outer, layer.output.LayerNorm


NAMES = ("weight", "bias")


def _packed(weight: torch.Tensor, bias: torch.Tensor) -> Packed:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), FEW_TOKENS // 2), bias.detach()


def _linear(values: torch.Tensor, packed: Packed, activation: str = "none") -> torch.Tensor:
    # gelu by the error function
    return torch.ops.mkldnn._linear_pointwise(values, *packed, activation, [], "none")


def _linear_added(values: torch.Tensor, packed: Packed, to: torch.Tensor) -> torch.Tensor:
    weight, bias = packed
    return torch.ops.mkldnn._linear_pointwise.binary(values, to, weight, bias, "add")


def _fill(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put the weights in, without the prefix and the heads of what it was trained as. Raises ValueError for a gap."""
    own = set(model.state_dict())
    prefix = f"{model.base_model_prefix}."
    found = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    missing, _ = model.load_state_dict({name: found[name] for name in own & set(found)}, strict=False)
    # nothing here reads the pooler, and some checkpoints come without it
    if gaps := [name for name in missing if not name.startswith("pooler.")]:
        raise ValueError(f"the checkpoint has no {gaps[0]}")


def batches(order: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[list[int]]:
    """Runs of ``order``, shortest text first, none over BATCH_TEXTS texts or BATCH_TOKENS tokens with its padding."""
    found: list[list[int]] = []
    for index in order:
        last = found[-1] if found else []
        if last and len(last) < BATCH_TEXTS and (len(last) + 1) * len(tokens[index]) <= BATCH_TOKENS:
            last.append(index)
        else:
            found.append([index])
    return found


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


def open_cross_encoder(source: str, threads: int) -> CrossEncoder:
    """A cross-encoder for the thread that calls this, which torch then gives so many threads."""
    torch.set_num_threads(threads)
    return CrossEncoder(source)
