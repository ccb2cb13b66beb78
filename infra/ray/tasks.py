"""What tasks of Ray do when documents are ingested: parse and embed a file, and write into one collection.

Knows no Ray (`ingest.py` does). Settings are read where a task runs.
"""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pyarrow import fs

from apps.api.src.wiring.fleet import remote_local
from apps.api.src.wiring.stores import build_database, chosen_embedder
from apps.core.errors import AppError
from apps.core.settings import Settings, load_settings
from apps.rag.records import Limits
from apps.rag.storage import Parts, put_together
from infra.ray.stages import EmbeddedFile, ParsedFile, Place, Reading, embed, tend, write

COMMITS_BEFORE_UPKEEP = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to take in: its label and its path, of this machine or in the store that a URL leads to.

    A path is as the store has it: names have characters that a URL has not.
    """

    label: str
    path: str
    store: str = ""

    def open(self) -> BinaryIO:
        if not self.store:
            return Path(self.path).open("rb")
        store, _ = fs.FileSystem.from_uri(self.store)
        opened: BinaryIO = store.open_input_stream(self.path)
        return opened


@dataclass(frozen=True, slots=True)
class Target:
    """Where documents go, as the process that was started has it."""

    place: Place
    data_dir: str
    rag_uri: str

    def settings(self) -> Settings:
        """Those of this process, with the target's folders."""
        return load_settings().model_copy(update={"data_dir": Path(self.data_dir), "rag_uri": self.rag_uri})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file was not taken in; nothing is repeated for it."""

    label: str
    message: str


class Workplace:
    """What a process of Ray keeps between its tasks: an event loop that runs on, the embedder, the parser's process."""

    def __init__(self, target: Target) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.parts = self.run(_parts(target))
        self.reading = Reading(self.parts)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @classmethod
    def of(cls, target: Target) -> "Workplace":
        if target not in _WORKPLACES:
            _WORKPLACES[target] = cls(target)
        return _WORKPLACES[target]


_WORKPLACES: dict[Target, Workplace] = {}


async def _parts(target: Target, *, writes: bool = False) -> Parts:
    settings = target.settings()
    elsewhere = remote_local(settings).target if settings.local_url else None
    embedder, tokenizer = chosen_embedder(settings, elsewhere=elsewhere)
    database = None
    if writes and settings.database_url.get_secret_value():
        # the lock of the collection's writers is there
        database = build_database(settings)
        await database.start()
    limits = Limits.of(settings).for_embedder(embedder.longest)
    return put_together(settings.data_dir / "rag", settings.rag_uri, embedder, tokenizer, limits, database)


def parsed(target: Target, source: Source) -> ParsedFile | Failure:
    """A task: one file read, in a process with limits."""
    work = Workplace.of(target)

    async def read() -> ParsedFile:
        with source.open() as content:
            return await work.reading.parse(target.place, source.label, content)

    try:
        return work.run(read())
    except AppError as error:
        return Failure(source.label, error.message)
    except OSError as error:
        return Failure(source.label, f"It cannot be read: {error.strerror or type(error).__name__}")


def embedded(target: Target, file: ParsedFile | Failure) -> EmbeddedFile | Failure:
    """A task: the vectors of one file's passages."""
    if isinstance(file, Failure):
        return file
    work = Workplace.of(target)
    try:
        return work.run(embed(work.parts.embedder, file))
    except AppError as error:
        return Failure(file.document.name, error.message)


class Writer:
    """The one writer of a collection. Beside it, other processes wait for the same lock."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._parts: Parts | None = None
        self._commits = 0

    async def put(self, file: EmbeddedFile | Failure) -> int | Failure:
        """The document's passages."""
        if isinstance(file, Failure):
            return file
        parts = await self._opened()
        try:
            passages = await write(parts, self._target.place, file)
            self._commits += 1
            if self._commits % COMMITS_BEFORE_UPKEEP == 0:
                await tend(parts, self._target.place)
        except AppError as error:
            return Failure(file.document.name, error.message)
        return passages

    async def finish(self) -> None:
        """Bring the indices up to date."""
        if self._commits:
            await tend(await self._opened(), self._target.place)

    async def _opened(self) -> Parts:
        if self._parts is None:
            self._parts = await _parts(self._target, writes=True)
        return self._parts
