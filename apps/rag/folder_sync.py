"""A collection that follows a folder: what is new comes, what changed is replaced, what is gone goes.

The index itself is the record of what was taken in: each document carries a mark of its folder in its metadata, and
its id is the hash of its bytes. So a run that was killed anywhere is made good by the next one.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apps.core.errors import AppError, NotFound, Overloaded
from apps.rag.library import Library
from apps.rag.parsing.formats import BY_SUFFIX
from apps.rag.records import Document, Job, Upload, file_name

MARK = "synced_folder"
"""The metadata field that says which folder a document was taken from, as a hash of its path."""
KNOWN = ", ".join(sorted(BY_SUFFIX))
BATCH_FILES = 100
BATCH_BYTES = 64 * 2**20
BLOCK = 2**20
QUEUE_SECONDS = 2.0
PAGE = 1000


@dataclass(frozen=True, slots=True)
class LocalFile:
    """``label`` is its name in the collection."""

    path: Path
    label: str
    size: int
    changed: int
    """Nanoseconds."""


@dataclass(slots=True)
class Scan:
    """What is in a folder: ``files`` by label, ``skipped`` by path with the reason; ``hidden`` is no one's business."""

    files: dict[str, LocalFile] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Labels, or how they begin, of what could not be looked at: nothing is known of it."""


@dataclass(slots=True)
class SyncReport:
    """Labels by what became of them. ``skipped`` says why; ``warnings`` what of a document was not read."""

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unchanged: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    passages: int = 0
    unread: set[str] = field(default_factory=set)
    """Labels that are skipped for now: what is known of them stays."""


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """``job`` is the batch that is being ingested; ``done`` files are finished of ``of`` that have to be read."""

    done: int
    of: int
    job: Job


class FolderSync:
    """Run as often as wanted: bytes whose file has not changed since are not read again."""

    def __init__(self, library: Library, tenant: str, collection: str, folder: Path) -> None:
        self._library = library
        self._tenant = tenant
        self._collection = collection
        self._folder = folder
        self._mark = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        self._digests: dict[tuple[Path, int, int], str] = {}

    async def run(self, on_progress: Callable[[SyncProgress], None] = lambda _: None) -> SyncReport:
        """Bring the collection in step. The library must be started. Raises errors of the tree, and OSError."""
        # what an earlier run left behind is ingested first: it must not come after what is newer
        await self._library.settled(self._tenant, self._collection)
        scan = await asyncio.to_thread(scanned, self._folder)
        report = SyncReport(skipped=dict(scan.skipped))
        wanted = await asyncio.to_thread(self._hashed, scan, report)
        known = {name: one for one in await self._own() for name in one.names}
        new = [label for label, digest in wanted.items() if label not in known or known[label].id != digest]
        report.unchanged = len(wanted) - len(new)
        async for job in self._ingest([scan.files[label] for label in new], on_progress):
            self._note(job, known, report)
        kept = {label for label in wanted if label not in report.skipped} | report.unread
        for name, document in known.items():
            if name in kept or name.startswith(tuple(scan.unread)):
                continue
            if await self._remove(document, name):
                report.deleted.append(name)
        return report

    async def watch(
        self, seconds: float, on_progress: Callable[[SyncProgress], None] = lambda _: None
    ) -> AsyncGenerator[SyncReport, None]:
        """A report at once, and after each change of the folder; it is looked at every so many seconds."""
        seen: dict[str, LocalFile] | None = None
        while True:
            before = (await asyncio.to_thread(scanned, self._folder)).files
            if before != seen:
                yield await self.run(on_progress)
                seen = before
            await asyncio.sleep(seconds)

    def _hashed(self, scan: Scan, report: SyncReport) -> dict[str, str]:
        """The SHA-256 of each file that can be read, by its label. Blocks."""
        found: dict[str, str] = {}
        for label, file in scan.files.items():
            key = (file.path, file.size, file.changed)
            try:
                if key not in self._digests:
                    self._digests[key] = _digest(file.path)
            except OSError as error:
                report.skipped[label] = f"it cannot be read: {error.strerror}"
                report.unread.add(label)
                continue
            found[label] = self._digests[key]
        return found

    async def _own(self) -> list[Document]:
        """The collection's documents that came from this folder."""
        found: list[Document] = []
        after = ""
        try:
            while page := await self._library.documents(self._tenant, self._collection, limit=PAGE, after=after):
                found += [one for one in page if one.metadata.get(MARK) == self._mark]
                after = page[-1].id
        except NotFound:
            return []
        return found

    async def _ingest(
        self, files: Sequence[LocalFile], on_progress: Callable[[SyncProgress], None]
    ) -> AsyncGenerator[Job, None]:
        done = 0
        for batch in _batches(files):
            uploads, gone = await asyncio.to_thread(self._uploads, batch)
            done += gone
            if not uploads:
                continue
            job = await self._submitted(uploads)
            async for state in self._library.watch(self._tenant, job.id):
                job = state
                on_progress(SyncProgress(done, len(files), job))
            done += len(uploads)
            yield job

    def _uploads(self, batch: Sequence[LocalFile]) -> tuple[list[Upload], int]:
        """Their bytes; what went away meanwhile is left to the next run, and counted. Blocks."""
        uploads: list[Upload] = []
        for file in batch:
            try:
                content = file.path.read_bytes()
            except OSError:
                continue
            if content:
                uploads.append(Upload(file.label, content, {MARK: self._mark}))
        return uploads, len(batch) - len(uploads)

    async def _submitted(self, uploads: Sequence[Upload]) -> Job:
        """Waits while the queue is full."""
        while True:
            try:
                return await self._library.submit(self._tenant, self._collection, uploads)
            except Overloaded:
                await asyncio.sleep(QUEUE_SECONDS)

    def _note(self, job: Job, known: dict[str, Document], report: SyncReport) -> None:
        for file in job.files:
            if file.error is not None:
                report.skipped[file.name] = str(file.error["message"])
                continue
            (report.replaced if file.name in known else report.added).append(file.name)
            report.passages += file.passages
            if file.warnings:
                report.warnings[file.name] = file.warnings

    async def _remove(self, document: Document, name: str) -> bool:
        try:
            await self._library.remove_name(self._tenant, self._collection, document.id, name)
        except NotFound:
            return False
        return True


def scanned(folder: Path) -> Scan:
    """Everything in the folder and its folders, in the order of its names. Blocks. Raises OSError for the folder."""
    scan = Scan()
    for path in _walk(folder, folder, scan):
        shown = _shown(path.relative_to(folder))
        try:
            os.fsencode(path).decode("utf-8")
            label = file_name(" - ".join(path.relative_to(folder).parts))
        except UnicodeDecodeError:
            scan.skipped[shown] = "its name is not UTF-8"
            continue
        except AppError as error:
            scan.skipped[shown] = str(error)
            continue
        _take(path, label, shown, scan)
    return scan


def _take(path: Path, label: str, shown: str, scan: Scan) -> None:
    try:
        status = path.stat()
    except OSError as error:
        scan.skipped[shown] = f"it cannot be read: {error.strerror}"
        scan.unread.append(label)
        return
    if not path.is_file():
        scan.skipped[shown] = "it is no file"
    elif path.suffix.lower() not in BY_SUFFIX:
        scan.skipped[shown] = f"its ending is none of those that are known here ({KNOWN})"
    elif status.st_size == 0:
        scan.skipped[shown] = "it is empty"
    elif label in scan.files:
        scan.skipped[shown] = f"another file has the name {label} already"
    else:
        scan.files[label] = LocalFile(path, label, status.st_size, status.st_mtime_ns)


def _walk(top: Path, folder: Path, scan: Scan) -> Iterator[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        if folder == top:
            raise
        scan.skipped[_shown(folder.relative_to(top))] = f"it cannot be read: {error.strerror}"
        scan.unread.append(" - ".join(folder.relative_to(top).parts) + " - ")
        return
    for path in inside:
        if path.name.startswith("."):
            scan.hidden.append(_shown(path.relative_to(top)))
        elif path.is_dir() and path.is_symlink():
            scan.skipped[_shown(path.relative_to(top))] = "it is a link to a folder"
        elif path.is_dir():
            yield from _walk(top, path, scan)
        else:
            yield path


def _shown(path: Path) -> str:
    """A name that may be printed, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _batches(files: Sequence[LocalFile]) -> Iterator[list[LocalFile]]:
    batch: list[LocalFile] = []
    size = 0
    for file in files:
        if batch and (len(batch) >= BATCH_FILES or size + file.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch
