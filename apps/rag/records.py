"""What the library takes and hands out: uploads, jobs, collections, documents, passages. Values, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from apps.core.messages import JsonObject

Kind = Literal[
    "pdf",
    "docx",
    "pptx",
    "xlsx",
    "odt",
    "ods",
    "rtf",
    "epub",
    "html",
    "markdown",
    "text",
    "csv",
    "email",
    "msg",
    "image",
]
Status = Literal["queued", "running", "done", "failed"]
SearchMode = Literal["hybrid", "vector", "text"]
MetadataValue = str | int | float | bool
Metadata = Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to ingest. ``name`` is a label, never a path; ``content`` is read once, from where it stands.

    ``metadata`` is flat: names of ``[A-Za-z_][A-Za-z0-9_]{0,62}`` other than a filter's own fields, at most 32 of
    them, values that are strings (up to 1,000 characters), numbers or booleans.
    """

    name: str
    content: bytes | BinaryIO
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileProgress:
    """One upload of a job. ``error`` is the inner object of the error envelope (code, message, status, ...).

    ``warnings`` say what of the document was not read. ``started`` and ``finished`` are Unix times.
    """

    name: str
    document: str
    status: Status
    pages: int = 0
    passages: int = 0
    embedded: int = 0
    error: JsonObject | None = None
    warnings: tuple[str, ...] = ()
    started: float | None = None
    finished: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A submission. ``failed`` means that at least one file failed; the others of it are done all the same.

    ``percent`` (0 to 100) never goes back, also not over a restart.
    """

    id: str
    collection: str
    status: Status
    percent: float
    files: tuple[FileProgress, ...]
    created: float

    @property
    def finished(self) -> bool:
        return self.status in ("done", "failed")

    @property
    def pages(self) -> int:
        return sum(file.pages for file in self.files)

    @property
    def passages(self) -> int:
        return sum(file.passages for file in self.files)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a job goes, and what is left of it. ``seconds_left`` is an estimate, None before anything is known."""

    files_done: int
    files_left: int
    seconds: float
    seconds_left: float | None

    def per_second(self, count: int) -> float:
        return round(count / self.seconds, 2) if self.seconds > 0 else 0.0


def pace_of(job: Job, now: float) -> Pace:
    """``now`` is a Unix time."""
    done = sum(file.finished is not None for file in job.files)
    began = min((file.started for file in job.files if file.started is not None), default=None)
    ended = max((file.finished for file in job.files if file.finished is not None), default=now)
    seconds = max((ended if job.finished else now) - began, 0.0) if began is not None else 0.0
    left = seconds * (100 - job.percent) / job.percent if job.percent > 0 else None
    return Pace(done, len(job.files) - done, seconds, 0.0 if job.finished else left)


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    embedding_model: str
    dimensions: int
    documents: int
    passages: int


@dataclass(frozen=True, slots=True)
class Document:
    """``id`` is the SHA-256 of its bytes. One that came under several names has them all in ``names``, the last
    one given last; ``name`` is that one."""

    id: str
    name: str
    names: tuple[str, ...]
    kind: Kind
    bytes: int
    pages: int
    passages: int
    metadata: Metadata
    ingested: float


@dataclass(frozen=True, slots=True)
class DocumentText:
    """A document and what was read of it: the text that its passages' spans point into."""

    document: Document
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document, as a search found it.

    ``start`` and ``end`` are its span, in Unicode code points, in the text that was extracted from the document;
    ``page`` counts from 1 and is None where the format has no pages. ``score`` orders the result: the fused rank
    score (hybrid), the cosine (vector) or BM25 (text), or the reranker's. ``vector_score`` is the cosine of query
    and passage, known for every passage unless the mode is text; ``text_score`` (BM25) and ``text_rank`` (from 1)
    are None where the text search did not find it. ``relevance`` (0 to 1) is how likely it says anything about the
    query, and is None where nothing was asked.
    """

    id: str
    document: str
    name: str
    page: int | None
    headings: tuple[str, ...]
    start: int
    end: int
    text: str
    metadata: Metadata
    score: float
    vector_score: float | None
    text_score: float | None
    text_rank: int | None
    relevance: float | None = None
