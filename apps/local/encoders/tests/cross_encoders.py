"""Small random cross-encoders, made here: BERT and RoBERTa shapes with a WordPiece tokenizer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

WORDS = "owls hunt mice at night bread is baked from flour what do eat the a of and in".split()  # noqa: SIM905
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
}


def make_cross_encoder(folder: Path, labels: int = 1, kind: str = "bert") -> Path:
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = [*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters), *".?!,"]
    ids = {word: index for index, word in enumerate(dict.fromkeys(vocabulary))}
    tokens = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokens.pre_tokenizer = BertPreTokenizer()
    tokens.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    types = ["input_ids", "token_type_ids", "attention_mask"] if kind == "bert" else ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, model_max_length=64, model_input_names=types, **names
    ).save_pretrained(folder)
    torch.manual_seed(16)
    config: Any = {**SIZES, "vocab_size": tokens.get_vocab_size(), "num_labels": labels, "initializer_range": 0.7}
    if kind == "bert":
        model: Any = BertForSequenceClassification(BertConfig(max_position_embeddings=64, **config))
    else:
        model = RobertaForSequenceClassification(RobertaConfig(max_position_embeddings=66, type_vocab_size=1, **config))
    model.save_pretrained(folder)
    return folder
