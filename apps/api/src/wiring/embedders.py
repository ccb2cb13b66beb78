"""Which embedder the settings ask for."""

from pathlib import Path

from apps.core.ports import Embedder
from apps.core.settings import Settings
from apps.local.embedding.minilm import MiniLM
from apps.models.openai_embedder import OpenAIEmbedder


def chosen_embedder(settings: Settings) -> tuple[Embedder, Path | None]:
    """The embedder of collections of documents, and its tokenizer.json where there is one."""
    if settings.rag_embedding_model:
        return OpenAIEmbedder(settings), None
    minilm = MiniLM()
    return minilm, minilm.tokenizer_file
