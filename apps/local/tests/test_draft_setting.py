"""LOCAL_DRAFT: which checkpoints draft, and what is said of one that cannot."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apps.core.settings import Settings
from apps.local.loading import LoadFailed, load_local
from apps.tests.support.kernels import kernels
from apps.tests.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.local


def with_tokenizer(folder: Path, words: Sequence[str]) -> Path:
    """``folder`` with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": words[1], "chat_template": "{{ messages }}"})
    )
    return folder


WORDS = ["<unk>", "</s>", *(f"w{number}" for number in range(94))]


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[str, Path]:
    made = {"model": WORDS, "same": WORDS, "other": [*WORDS[:50], "else", *WORDS[51:]]}
    return {name: with_tokenizer(write_tiny_checkpoint(tmp_path / name), words) for name, words in made.items()}


def settings_of(checkpoints: dict[str, Path], tmp_path: Path, draft: str, **changes: Any) -> Settings:
    shutil.copytree(Settings().model_cache_dir / "kernels", tmp_path / "cache/kernels", dirs_exist_ok=True)
    return Settings(
        _env_file=None,
        local_model=str(checkpoints["model"]),
        local_draft=draft,
        model_cache_dir=tmp_path / "cache",
        **changes,
    )


def test_a_model_of_the_same_tokenizer_drafts(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    kernels()
    loaded = load_local(settings_of(checkpoints, tmp_path, str(checkpoints["same"])), lambda *_: None)
    try:
        assert loaded.engine.describe()["speculation"] == "prompt lookup, grammar, a model"
    finally:
        loaded.engine.close()


def test_without_speculation_there_is_none(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    kernels()
    same = str(checkpoints["same"])
    settings = settings_of(checkpoints, tmp_path, same, local_speculation="off")
    loaded = load_local(settings, lambda *_: None)
    try:
        assert loaded.engine.describe()["speculation"] == "off"
    finally:
        loaded.engine.close()


def test_another_tokenizer_or_no_checkpoint_is_said_and_nothing_is_served(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    kernels()
    with pytest.raises(LoadFailed, match=r"its tokenizer is another one \(1 of 96 tokens differ, '(else|w48)' \(50\)"):
        load_local(settings_of(checkpoints, tmp_path, str(checkpoints["other"])), lambda *_: None)
    with pytest.raises(LoadFailed, match="LOCAL_DRAFT"):
        load_local(settings_of(checkpoints, tmp_path, str(tmp_path / "nowhere")), lambda *_: None)
    (checkpoints["same"] / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with pytest.raises(LoadFailed, match=r"LOCAL_DRAFT=.* cannot draft: BertModel is none of"):
        load_local(settings_of(checkpoints, tmp_path, str(checkpoints["same"])), lambda *_: None)
