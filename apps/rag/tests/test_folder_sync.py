"""A collection that follows a folder: what comes, changes and goes; what is skipped; and kill -9 anywhere.

SYNC_KILLS sets how often the syncing process is killed.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from apps.rag.folder_sync import FolderSync
from apps.rag.library import Library
from apps.rag.records import Upload
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS, finished, names

pytestmark = pytest.mark.local

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("SYNC_KILLS", "20"))
# root without what lets it read each file; util-linux is on each Linux
_READS = "-dac_override,-dac_read_search"
WITHOUT_RIGHTS = ["setpriv", f"--bounding-set={_READS}", f"--inh-caps={_READS}"]


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    made = Library(tmp_path / "data", HashingEmbedder(), limits=LIMITS)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    (made / "birds").mkdir(parents=True)
    (made / "birds" / "owls.md").write_text("# Owls\n\nOwls hunt mice.\n")
    (made / "bread.txt").write_text("Bread is baked from flour.")
    (made / ".git").mkdir()
    (made / ".git" / "notes.md").write_text("hidden")
    return made


def syncing(library: Library, folder: Path) -> FolderSync:
    return FolderSync(library, "ann", "docs", folder)


async def test_what_is_new_comes_what_changed_is_replaced_and_what_is_gone_goes(library: Library, folder: Path) -> None:
    sync = syncing(library, folder)
    first = await sync.run()
    assert (first.added, first.skipped) == (["birds - owls.md", "bread.txt"], {})
    second = await sync.run()
    assert (second.added, second.replaced, second.deleted, second.unchanged) == ([], [], [], 2)
    (folder / "bread.txt").write_text("Bread is baked from rye.")
    (folder / "new.txt").write_text("Something new.")
    (folder / "birds" / "owls.md").unlink()
    third = await sync.run()
    assert (third.added, third.replaced, third.deleted) == (["new.txt"], ["bread.txt"], ["birds - owls.md"])
    assert await names(library) == ["bread.txt", "new.txt"]
    [found] = await library.search("ann", "docs", "rye", mode="text")
    assert found.text == "Bread is baked from rye."


async def test_a_file_that_is_renamed_or_copied_keeps_its_one_document(library: Library, folder: Path) -> None:
    sync = syncing(library, folder)
    await sync.run()
    (folder / "copy.txt").write_text("Bread is baked from flour.")
    await sync.run()
    (folder / "bread.txt").unlink()
    report = await sync.run()
    assert report.deleted == ["bread.txt"]
    assert await names(library) == ["birds - owls.md", "copy.txt"]


async def test_what_others_put_there_stays(library: Library, folder: Path) -> None:
    job = await library.submit("ann", "docs", [Upload("mine.txt", b"uploaded by hand")])
    await finished(library, "ann", job)
    await syncing(library, folder).run()
    for path in (folder / "bread.txt", folder / "birds" / "owls.md"):
        path.unlink()
    await syncing(library, folder).run()
    assert await names(library) == ["mine.txt"]


def nameless(folder: Path) -> None:
    """A file whose name is Latin-1."""
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_bytes(b"x")


async def test_what_cannot_be_read_is_told_and_the_rest_goes_in(library: Library, folder: Path) -> None:
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text(" \n")
    (folder / "song.mp3").write_bytes(b"ID3")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    nameless(folder)
    report = await syncing(library, folder).run()
    assert report.added == ["birds - owls.md", "bread.txt"]
    assert set(report.skipped) == {"empty.txt", "blank.txt", "song.mp3", "broken.pdf", "caf\\xe9.txt"}
    assert report.skipped["empty.txt"] == "it is empty"
    assert report.skipped["caf\\xe9.txt"] == "its name is not UTF-8"
    assert "no text in it" in report.skipped["blank.txt"] and "damaged" in report.skipped["broken.pdf"]


def reads_everything() -> bool:
    """As root does, unless its capabilities were taken."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).chmod(0)
        return os.access(file.name, os.R_OK)


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "WITHOUT_RIGHTS": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mode that forbids its owner to read")
async def test_what_is_forbidden_now_keeps_what_was_known_of_it(
    library: Library, folder: Path, request: pytest.FixtureRequest
) -> None:
    if reads_everything():
        assert "WITHOUT_RIGHTS" not in os.environ, "files without modes: there is nothing that is forbidden here"
        again = [sys.executable, "-m", "pytest", "-q", request.node.nodeid]
        done = await asyncio.to_thread(run, [*WITHOUT_RIGHTS, *again], request.config.rootpath)
        assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
        return
    sync = syncing(library, folder)
    await sync.run()
    (folder / "bread.txt").chmod(0)
    (folder / "birds").chmod(0)
    try:
        report = await syncing(library, folder).run()
    finally:
        (folder / "birds").chmod(0o755)
        (folder / "bread.txt").chmod(0o644)
    assert set(report.skipped) == {"bread.txt", "birds"}
    assert await names(library) == ["birds - owls.md", "bread.txt"]


async def test_a_new_version_that_cannot_be_read_takes_the_old_one_away(library: Library, folder: Path) -> None:
    sync = syncing(library, folder)
    await sync.run()
    (folder / "bread.txt").write_bytes(bytes(range(1, 256)) * 4)
    report = await sync.run()
    assert "bread.txt" in report.skipped and report.deleted == ["bread.txt"]
    assert await names(library) == ["birds - owls.md"]


async def test_a_watched_folder_is_followed(library: Library, folder: Path) -> None:
    reports = syncing(library, folder).watch(0.05)
    async with asyncio.timeout(60):
        assert len((await anext(reports)).added) == 2
        (folder / "late.txt").write_text("A late text.")
        assert (await anext(reports)).added == ["late.txt"]
    await reports.aclose()


def change(folder: Path, chance: random.Random) -> None:
    """Some files come, some change, some go."""
    for number in chance.sample(range(30), 8):
        path = folder / f"{number}.txt"
        if path.exists() and chance.random() < 0.3:
            path.unlink()
        else:
            path.write_text(f"Version {chance.randrange(1000)} of {number}.\n\n" + "Some more words here. " * 30)


def command(data: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "apps.rag.tests.syncing_process", str(data), str(folder)]


def run_and_kill(data: Path, folder: Path, seconds: float) -> None:
    with subprocess.Popen(command(data, folder), cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.kill()


async def held(data: Path) -> dict[str, Any]:
    """Every name with its document and its passages' texts."""
    library = Library(data, HashingEmbedder(), limits=LIMITS)
    try:
        found: dict[str, Any] = {}
        for document in await library.documents("ann", "docs", limit=1000):
            passages = await library.passages("ann", "docs", document.id, limit=1000)
            for name in document.names:
                found[name] = (document.id, [(one.id, one.text, one.start) for one in passages], document.metadata)
        return found
    finally:
        await library.aclose()


@pytest.mark.long
async def test_killed_anywhere_and_run_again_the_index_is_as_made_in_one_go(tmp_path: Path) -> None:
    chance, folder = random.Random(16), tmp_path / "docs"
    folder.mkdir()
    for _ in range(KILLS):
        change(folder, chance)
        await asyncio.to_thread(run_and_kill, tmp_path / "killed", folder, chance.random() * 1.5)
    for data in ("killed", "whole"):
        await asyncio.to_thread(subprocess.run, command(tmp_path / data, folder), cwd=ROOT, check=True, timeout=300)
    assert await held(tmp_path / "killed") == await held(tmp_path / "whole")
