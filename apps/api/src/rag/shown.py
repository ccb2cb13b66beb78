"""The library's values as the answers of /rag show them."""

from collections.abc import Sequence

from apps.api.src.rag.schemas import (
    CollectionAnswer,
    DocumentAnswer,
    FileAnswer,
    JobAnswer,
    PassageAnswer,
)
from apps.rag.answering import Place
from apps.rag.records import Collection, Document, Job, Passage


def shown_collection(place: Place, collection: Collection) -> CollectionAnswer:
    return CollectionAnswer(
        name=collection.name,
        shared=place.shared,
        model=place.model,
        embedding_model=collection.embedding_model,
        dimensions=collection.dimensions,
        documents=collection.documents,
        passages=collection.passages,
    )


def shown_document(document: Document) -> DocumentAnswer:
    return DocumentAnswer(
        id=document.id,
        name=document.name,
        names=list(document.names),
        kind=document.kind,
        bytes=document.bytes,
        pages=document.pages,
        passages=document.passages,
        metadata=dict(document.metadata),
        ingested=document.ingested,
    )


def shown_passages(passages: Sequence[Passage]) -> list[PassageAnswer]:
    return [
        PassageAnswer(
            id=passage.id,
            document=passage.document,
            name=passage.name,
            page=passage.page,
            heading=list(passage.headings),
            span=(passage.start, passage.end),
            text=passage.text,
            metadata=dict(passage.metadata),
            score=passage.score,
            vector_score=passage.vector_score,
            text_score=passage.text_score,
        )
        for passage in passages
    ]


def shown_job(job: Job) -> JobAnswer:
    return JobAnswer(
        id=job.id,
        collection=job.collection,
        status=job.status,
        percent=round(job.percent, 1),
        pages=job.pages,
        passages=job.passages,
        files=[
            FileAnswer(
                name=file.name,
                document=file.document,
                status=file.status,
                pages=file.pages,
                passages=file.passages,
                error=dict(file.error) if file.error is not None else None,
            )
            for file in job.files
        ],
        created=job.created,
    )
