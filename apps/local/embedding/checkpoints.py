"""EMBEDDING_MODELS: checkpoints of sentence encoders, read as far as their files tell without loading them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from apps.core.settings import SettingsError
from apps.local.embedding.local_embedder import LocalEmbedder, Pooling

KINDS = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra", "camembert")
# by which sentence-transformers says how a text's vectors become one; other parts are layers of their own
PARTS = ("Transformer", "Pooling", "Normalize")
POOLINGS: Mapping[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def embedders(folders: Iterable[str]) -> list[LocalEmbedder]:
    """One for each folder, under its folder's name; none is loaded.

    Raises SettingsError for what is no sentence encoder, or for two of one name.
    """
    made = [_embedder(Path(folder).expanduser()) for folder in folders]
    names = [embedder.name for embedder in made]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"Wrong setting EMBEDDING_MODELS: two folders are named {name}")
    return made


def _embedder(folder: Path) -> LocalEmbedder:
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise _wrong(folder, f"there is no {', no '.join(missing)}")
    config = _read(folder, "config.json")
    if config.get("model_type") not in KINDS:
        raise _wrong(folder, f"it must be one of {', '.join(KINDS)}")
    dimensions = config.get("hidden_size", config.get("dim"))
    positions = config.get("max_position_embeddings")
    if not isinstance(dimensions, int) or not isinstance(positions, int):
        raise _wrong(folder, "its config.json tells neither a hidden size nor positions")
    if "roberta" in config["model_type"] or config["model_type"] in ("mpnet", "camembert"):
        # their positions begin after the padding's
        positions -= int(config.get("pad_token_id", 1)) + 1
    told = _read(folder, "sentence_bert_config.json").get("max_seq_length")
    longest = min(positions, told) if isinstance(told, int) else positions
    return LocalEmbedder(folder.name, dimensions, longest, lambda: folder, pooling=_pooling(folder))


def _pooling(folder: Path) -> Pooling:
    """Mean where nothing is said. Raises SettingsError for what would give other vectors than were meant."""
    parts = _read(folder, "modules.json", list)
    for part in parts:
        kind = str(part.get("type", "")).rpartition(".")[2]
        if kind not in PARTS:
            raise _wrong(folder, f"it has a part {kind[:40]}, which is not computed here")
    said = _read(folder, "1_Pooling/config.json")
    modes = [name for name, value in said.items() if name.startswith("pooling_mode_") and value is True]
    if not said:
        return "mean"
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise _wrong(folder, "its vectors are pooled by mean or by the first token, or not here")
    return POOLINGS[modes[0]]


def _read(folder: Path, name: str, kind: type = dict) -> Any:
    """A JSON file of the folder; empty where there is none."""
    file = folder / name
    if not file.is_file():
        return kind()
    try:
        read = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, kind):
        raise _wrong(folder, f"{name} cannot be read")
    return read


def _wrong(folder: Path, why: str) -> SettingsError:
    return SettingsError(f"Wrong setting EMBEDDING_MODELS: {folder}: {why}")
