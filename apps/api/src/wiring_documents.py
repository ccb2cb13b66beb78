"""The part of wiring.py that names what documents need: their embedder, the library, and who writes from it."""

from dataclasses import dataclass

from apps.core.ports import ChatModel, Embedder
from apps.core.settings import Settings
from apps.models.embedding.choice import chosen_embedder
from apps.models.embedding.minilm import MiniLM
from apps.models.gateway.by_path import ByPath
from apps.models.gateway.local_wire import LocalWire
from apps.models.gateway.wire import WireTarget
from apps.models.gateway.writers import Writers
from apps.rag.answering import RagModels
from apps.rag.library import Library


@dataclass(frozen=True, slots=True)
class Documents:
    """The library of documents, and answers from it; ``writers`` learns of the gateway once there is one."""

    library: Library
    embedder: Embedder
    answers: RagModels
    writers: Writers

    def wire(self) -> WireTarget:
        """The answers on the one path of OpenAI's API that they serve."""
        return ByPath({"/chat/completions": LocalWire(self.answers, asks_others=True)})


def open_documents(settings: Settings, local: ChatModel) -> tuple[Documents, Embedder]:
    """The documents, and the embedder of /v1/embeddings: where both are MiniLM, it is one and is loaded once."""
    embeds, tokenizer = chosen_embedder(settings)
    library = Library.from_settings(settings, embeds, tokenizer=tokenizer)
    documents = build_documents(settings, local, embeds, library)
    return documents, embeds if isinstance(embeds, MiniLM) else MiniLM()


def build_documents(settings: Settings, local: ChatModel, embedder: Embedder, library: Library) -> Documents:
    writers = Writers(local, settings.rag_model, settings.rag_context_tokens)
    return Documents(library, embedder, RagModels(library, writers, settings.rag_min_score), writers)
