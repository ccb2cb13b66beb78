"""What the library takes and hands out: uploads, jobs, collections, documents, passages; their names and limits.

Names of tenants, collections, files and fields of metadata are labels, never a path. Limits come from the settings.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from apps.core.errors import InvalidType, InvalidValue, NotFound

if TYPE_CHECKING:
    # pydantic would cost the parsing process most of its start
    from apps.core.settings import Settings

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
    error: Mapping[str, Any] | None = None
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


EXTRA_TOKENS = 36


@dataclass(frozen=True, slots=True)
class Limits:
    file_bytes: int = 32 * 2**20
    """Largest upload; a larger one is PayloadTooLarge."""
    text_chars: int = 20_000_000
    """Most text that may come out of a file."""
    files_per_job: int = 1000
    queued_files: int = 10_000
    """Files that wait, of all tenants together; one tenant has half of them. More are Overloaded."""
    queued_bytes: int = 2 * 2**30
    ocr: bool = True
    """Pictures and scanned pages are recognised where tesseract is installed."""
    ocr_languages: str = "eng"
    """Of tesseract's packages, joined by +."""
    chunk_tokens: int = 220
    chunk_overlap: float = 0.15
    """A share of chunk_tokens."""
    parse_memory: int = 512 * 2**20
    parse_seconds: float = 20
    """CPU time for a file. By the clock it may take three times that, since the embedder wants the same cores."""
    workers: int = 2
    """Files that one process ingests at the same time: one is parsed while another is embedded."""
    lease_seconds: float = 15
    """A worker that was killed gives its files back after that."""
    job_days: float = 7
    """Finished jobs are remembered that long."""
    top_k: int = 100

    @property
    def job_seconds(self) -> float:
        return self.job_days * 86_400

    @classmethod
    def of(cls, settings: "Settings") -> "Limits":
        return cls(
            file_bytes=settings.rag_max_file_bytes,
            chunk_tokens=settings.rag_chunk_tokens,
            chunk_overlap=settings.rag_chunk_overlap,
            ocr=settings.rag_ocr == "auto",
            ocr_languages=settings.rag_ocr_languages,
        )

    def for_embedder(self, longest: int) -> "Limits":
        """With chunks that it takes: beside two special tokens there is room for the headings embedded with one."""
        return replace(self, chunk_tokens=min(self.chunk_tokens, max(longest - EXTRA_TOKENS, 1)))


COLLECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
DOCUMENT = re.compile(r"[0-9a-f]{64}")
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
DRIVE = re.compile(r"[A-Za-z]:")
OWN_FIELDS = frozenset({"name", "document", "page", "kind"})
"""What a filter knows by itself; metadata may not be called so."""

LONGEST_NAME = 255
LONGEST_STRING = 1000
MOST_KEYS = 32
# what a float64 still tells apart: filters compare numbers as such
LARGEST_INTEGER = 2**53


def tenant_folder(tenant: str) -> str:
    """A tenant's folder in the index. A digest: no tenant's name can reach another's folder."""
    if not isinstance(tenant, str) or not tenant:
        raise ValueError("a tenant is a name, not empty")
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def collection_name(name: str) -> str:
    if not isinstance(name, str) or not COLLECTION.fullmatch(name):
        raise InvalidValue(
            "A collection's name is 1 to 63 of a-z, 0-9, _ and -, the first one a letter or a digit",
            field="collection",
        )
    return name


def no_collection() -> NotFound:
    return NotFound("No such collection", field="collection")


def no_document() -> NotFound:
    return NotFound("No such document", field="document")


def file_name(name: str) -> str:
    """The name in Unicode's composed form. Raises InvalidValue where it is a path, or could be taken for one."""
    if not isinstance(name, str):
        raise InvalidType("A file's name must be a string", field="name")
    composed = unicodedata.normalize("NFC", name)
    if not 1 <= len(composed) <= LONGEST_NAME or composed != composed.strip():
        raise InvalidValue(f"A file's name is 1 to {LONGEST_NAME} characters, without blanks around it", field="name")
    if "/" in composed or "\\" in composed or composed in (".", "..") or DRIVE.match(composed):
        raise InvalidValue("A file's name is a label, not a path", field="name")
    if not composed.isprintable():
        raise InvalidValue("A file's name must be printable", field="name")
    return composed


def plain_name(name: str) -> str:
    """What may be shown of a name that a document itself gives: its last part, printable and bounded."""
    last = re.split(r"[/\\\\]", unicodedata.normalize("NFC", name))[-1]
    return "".join(char for char in last if char.isprintable()).strip()[:LONGEST_NAME]


def metadata(given: Metadata) -> dict[str, MetadataValue]:
    if not isinstance(given, Mapping):
        raise InvalidType("Metadata must be an object", field="metadata")
    if len(given) > MOST_KEYS:
        raise InvalidValue(f"Metadata has at most {MOST_KEYS} fields", field="metadata")
    for key, value in given.items():
        if not isinstance(key, str) or not KEY.fullmatch(key) or key in OWN_FIELDS:
            raise InvalidValue(
                f"A metadata field is named with A-Z, a-z, 0-9 and _, and not {', '.join(sorted(OWN_FIELDS))}",
                field="metadata",
            )
        scalar(value, f"metadata.{key}")
    return dict(given)


def scalar(value: Any, field: str) -> MetadataValue:
    """A string, a finite number or a boolean. Raises InvalidType and InvalidValue that name ``field``."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) > LARGEST_INTEGER:
            raise InvalidValue("A number must be finite, and at most 2^53", field=field)
        return value
    if not isinstance(value, str):
        raise InvalidType("A value must be a string, a number or a boolean", field=field)
    if len(value) > LONGEST_STRING:
        raise InvalidValue(f"A string has at most {LONGEST_STRING} characters here", field=field)
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidValue("A string must be valid Unicode without NUL", field=field)
    return value
