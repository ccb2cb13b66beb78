"""Which files of the paths on a command line are taken in, by which label, and which are left out and why.

The command line of collections of documents: ingest, sync, list, search, delete. Needs no server, and may run beside
one.

It works on the same folder, under the same locks: what it submits, a running server may ingest, and the other way
round. Reading a file's name from a folder is the operator's business: its path becomes a label here.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apps.api.src.wiring.fleet import remote_local
from apps.api.src.wiring.stores import build_database, chosen_embedder
from apps.cli.remote import printable
from apps.core.callers import SHARED
from apps.core.errors import AppError, Overloaded
from apps.core.settings import SettingsError, load_settings
from apps.rag.folder_sync import FolderSync, SyncProgress, SyncReport
from apps.rag.library import Library
from apps.rag.parsing.formats import BY_SUFFIX
from apps.rag.records import Job, Upload, pace_of

KNOWN = ", ".join(sorted(BY_SUFFIX))


@dataclass(slots=True)
class Found:
    """``taken``: each file with its label; ``skipped``: what was left out, with the reason."""

    taken: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def find_files(paths: Sequence[Path]) -> Found:
    """A file that is named is taken whatever it is called; of a folder, what has a known suffix and is not hidden."""
    found = Found()
    for path in paths:
        if path.is_dir():
            _look_into(path, path, found)
        else:
            found.taken.append((path, path.name))
    return found


def _look_into(top: Path, folder: Path, found: Found) -> None:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            found.skipped.append((path, "hidden"))
        elif path.is_dir():
            if path.is_symlink():
                found.skipped.append((path, "a link to a folder"))
            else:
                _look_into(top, path, found)
        elif not path.is_file():
            found.skipped.append((path, "not a file"))
        elif path.suffix.lower() in BY_SUFFIX:
            found.taken.append((path, " - ".join(path.relative_to(top).parts)))
        else:
            ending = f"{path.suffix} is no suffix" if path.suffix else "its name has no suffix"
            found.skipped.append((path, f"{ending} that is known here ({KNOWN})"))


BATCH = 100
"""Files submitted at once: their bytes are held in memory until they are on the disk."""
BAR = 30
QUEUE_SECONDS = 2.0
WATCH_SECONDS = 2.0
SKIPPED = 3
"""The exit status of a sync that left something out."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options))
    except (AppError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'A file'} cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What was taken in is ingested by the next run, or by a running server.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.cli.documents", description=__doc__.splitlines()[0])
    tenant_help = "whose collections (default: shared, which all may read)"
    parser.add_argument("--tenant", default=SHARED, help=tenant_help)
    # it may stand behind the command too
    whose = argparse.ArgumentParser(add_help=False)
    whose.add_argument("--tenant", default=argparse.SUPPRESS, help=tenant_help)
    commands = parser.add_subparsers(dest="command", required=True)
    ingest = commands.add_parser("ingest", parents=[whose], help="take in files, and folders with all that is in them")
    ingest.add_argument("paths", nargs="+", type=Path)
    ingest.add_argument("--collection", required=True)
    sync = commands.add_parser(
        "sync", parents=[whose], help="make a collection follow a folder; status 3 where a file was skipped"
    )
    sync.add_argument("folder", type=Path)
    sync.add_argument("--collection", required=True)
    sync.add_argument("--watch", action="store_true", help="go on until Ctrl-C, and follow every change")
    sync.add_argument("--every", type=float, default=WATCH_SECONDS, help="seconds between two looks (default: 2)")
    listing = commands.add_parser("list", parents=[whose], help="the collections, or the documents of one")
    listing.add_argument("--collection")
    search = commands.add_parser("search", parents=[whose], help="the passages that fit best")
    search.add_argument("text")
    search.add_argument("--collection", required=True)
    search.add_argument("--top-k", type=int, default=5)
    search.add_argument("--mode", choices=("hybrid", "vector", "text"), default="hybrid")
    delete = commands.add_parser("delete", parents=[whose], help="a document, or a whole collection")
    delete.add_argument("--collection", required=True)
    delete.add_argument("--document", help="its id; without one, the collection goes")
    return parser


async def _run(options: argparse.Namespace) -> int:
    settings = load_settings()
    # where the models are in another process, so is the embedder
    elsewhere = remote_local(settings).target if settings.local_url else None
    embedder, tokenizer = chosen_embedder(settings, elsewhere=elsewhere)
    if elsewhere is not None:
        # its first answer, or the reason why there is none
        await elsewhere.replicas.choose(b"", "embedding", embedder.name)
    database = build_database(settings)
    if settings.database_url.get_secret_value():
        await database.start()
    library = Library.from_settings(settings, embedder, tokenizer=tokenizer, database=database)
    commands = {"ingest": _ingest, "sync": _sync, "list": _list, "search": _search, "delete": _delete}
    try:
        return await commands[options.command](library, options)
    finally:
        await library.aclose()
        await database.aclose()
        await embedder.aclose()
        if elsewhere is not None:
            await elsewhere.aclose()


async def _ingest(library: Library, options: argparse.Namespace) -> int:
    found = find_files(options.paths)
    for path, reason in found.skipped:
        print(f"Skipped {path}: {reason}", file=sys.stderr)
    files = found.taken
    if not files:
        print("No files to ingest there", file=sys.stderr)
        return 1
    await library.start()
    failed = done = passages = 0
    for first in range(0, len(files), BATCH):
        batch = files[first : first + BATCH]
        job = await _submitted(library, options, batch)
        async for state in library.watch(options.tenant, job.id):
            job = state
            _draw(done + len(batch) * job.percent / 100, len(files), passages + job.passages)
        done, passages = done + len(batch), passages + job.passages
        for file in job.files:
            if file.error is not None:
                failed += 1
                print(f"\n{file.name}: {file.error['message']}", file=sys.stderr)
    print(file=sys.stderr)
    skipped = f"; {len(found.skipped)} skipped" if found.skipped else ""
    print(f"{len(files) - failed} of {len(files)} files are in {options.collection}, {passages} passages{skipped}")
    return 1 if failed else 0


async def _sync(library: Library, options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        print(f"{options.folder} is no folder", file=sys.stderr)
        return 1
    await library.start()
    sync = FolderSync(library, options.tenant, options.collection, options.folder)
    if not options.watch:
        return _exit_status(options, await sync.run(_draw_sync))
    async for report in sync.watch(max(options.every, 0.1), _draw_sync):
        _exit_status(options, report)
        sys.stdout.flush()
    return 0


def _exit_status(options: argparse.Namespace, report: SyncReport) -> int:
    """The summary; 3 where something was skipped."""
    if sys.stderr.isatty():
        print(file=sys.stderr)
    for name, warnings in report.warnings.items():
        for warning in warnings:
            print(f"{name}: {warning}", file=sys.stderr)
    for name, reason in report.skipped.items():
        print(f"Skipped {name}: {reason}", file=sys.stderr)
    counts = f"{len(report.added)} added, {len(report.replaced)} replaced, {len(report.deleted)} deleted"
    print(f"{options.collection}: {counts}, {report.unchanged} unchanged, {len(report.skipped)} skipped")
    return SKIPPED if report.skipped else 0


def _draw_sync(progress: SyncProgress) -> None:
    """A bar with the pace and what is left, where a terminal is."""
    job = progress.job
    pace = pace_of(job, time.time())
    done = progress.done + len(job.files) * job.percent / 100
    speeds = (
        f"{pace.per_second(pace.files_done):.1f} files/s, {pace.per_second(job.pages):.1f} pages/s, "
        f"{pace.per_second(job.passages):.1f} passages/s, {progress.of - int(done)} files left"
    )
    _draw(done, progress.of, job.passages, speeds)


async def _submitted(library: Library, options: argparse.Namespace, batch: Sequence[tuple[Path, str]]) -> Job:
    """Waits while the queue is full."""
    uploads = await asyncio.to_thread(lambda: [Upload(label, path.read_bytes()) for path, label in batch])
    while True:
        try:
            return await library.submit(options.tenant, options.collection, uploads)
        except Overloaded:
            await asyncio.sleep(QUEUE_SECONDS)


async def _list(library: Library, options: argparse.Namespace) -> int:
    if options.collection is None:
        for collection in await library.collections(options.tenant):
            counts = f"{collection.documents} documents, {collection.passages} passages"
            print(f"{collection.name}  {counts}, {collection.embedding_model}")
        return 0
    after = ""
    while page := await library.documents(options.tenant, options.collection, after=after):
        for document in page:
            print(f"{document.id}  {document.passages:6} passages  {document.name}")
        after = page[-1].id
    return 0


async def _search(library: Library, options: argparse.Namespace) -> int:
    found = await library.search(
        options.tenant, options.collection, options.text, top_k=options.top_k, mode=options.mode
    )
    for passage in found:
        page = f", page {passage.page}" if passage.page else ""
        path = f", {' > '.join(passage.headings)}" if passage.headings else ""
        print(printable(f"[{passage.score:.4f}] {passage.name}{page}{path}\n{passage.text}\n"))
    return 0


async def _delete(library: Library, options: argparse.Namespace) -> int:
    if options.document is None:
        await library.delete_collection(options.tenant, options.collection)
    else:
        await library.delete_document(options.tenant, options.collection, options.document)
    return 0


def _draw(done: float, of: int, passages: int, more: str = "") -> None:
    """A bar on a terminal; nothing in a log file."""
    if sys.stderr.isatty():
        filled = int(BAR * done / of)
        bar = "#" * filled + "." * (BAR - filled)
        shown = f"\r[{bar}] {100 * done / of:5.1f} %  {passages} passages  {more}"
        print(f"{shown:<110}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
