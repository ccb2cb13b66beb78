"""`genai docs ingest --ray` on a real Ray, whose workers are killed at every stage: nothing is lost or doubled."""

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import lancedb
import pytest

from apps.core.callers import SHARED
from apps.core.settings import Settings
from apps.local.encoders.embedder import missing_for_minilm
from apps.rag.records import tenant_folder
from apps.tests.support.processes import environment
from apps.tests.support.s3_server import needs_s3, put, s3_server
from apps.tests.watch import WATCH

ROOT = Path(__file__).parents[4]
# Ray may have an environment of its own, which has all of this project's packages too
PYTHON = sys.executable if importlib.util.find_spec("ray") else os.environ.get("RAY_PYTHON", "")
FILES, FEW = 12, 6
# what is killed when so many files are in: a process of tasks at work, or one that waits for the next
TASKS, WRITER = ("ray::parsed", "ray::embedded", "ray::IDLE"), ("ray::Writer",)
KILLS = ((2, TASKS), (4, WRITER), (6, TASKS), (8, WRITER))

OURS = re.compile(r"[^:]+: \d+ passages|\d+ of \d+ files are in papers, \d+ passages")

pytestmark = [
    pytest.mark.long,
    pytest.mark.local,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not PYTHON, reason="needs Ray: pip install -r requirements-fleet.txt, here or where RAY_PYTHON says"
    ),
    pytest.mark.skipif(bool(missing_for_minilm()), reason="needs requirements-local.txt"),
]


def test_workers_that_are_killed_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(FILES):
        (corpus / f"{number}.txt").write_bytes(_text(number))
    (corpus / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing else")
    (corpus / "left out.bin").write_bytes(b"\0")
    variables = environment(0, {"DATA_DIR": str(tmp_path / "data"), "MODEL_CACHE_DIR": str(Settings().model_cache_dir)})
    index = str(tmp_path / "data" / "rag" / "index" / tenant_folder(SHARED))
    names = sorted(f"{number}.txt" for number in range(FILES))
    first, killed = _ingest(corpus, variables, tmp_path / "log", KILLS)
    assert killed == len(KILLS), "workers of tasks and the writer were killed"
    assert first[-1].startswith(f"{FILES} of {FILES + 1} files are in papers"), first
    asyncio.run(_check(index, names))
    # by a URL, to the same labels: all is there, and nothing is computed again
    again, _ = _ingest(corpus.as_uri(), variables, tmp_path / "log", ())
    assert again[-1] == first[-1]
    asyncio.run(_check(index, names))


@needs_s3
def test_a_corpus_in_an_object_store_goes_into_an_index_there(tmp_path: Path) -> None:
    with s3_server(tmp_path, "corpus", "bucket") as store:
        for number in range(FEW):
            put(f"{store['AWS_ENDPOINT_URL']}/corpus/papers/part {number % 2}/{number}.txt", _text(number))
        put(f"{store['AWS_ENDPOINT_URL']}/corpus/papers/broken.pdf", b"%PDF-1.7 and nothing else")
        put(f"{store['AWS_ENDPOINT_URL']}/corpus/papers/left out.bin", b"\0")
        put(f"{store['AWS_ENDPOINT_URL']}/corpus/papers of others/other.txt", b"No file of the prefix.")
        folders = {"DATA_DIR": str(tmp_path / "data"), "MODEL_CACHE_DIR": str(Settings().model_cache_dir)}
        variables = environment(0, {**folders, **store, "RAG_URI": "s3://bucket/rag"})
        for _ in range(2):
            told, _ = _ingest("s3://corpus/papers", variables, tmp_path / "log", ())
            assert told[-1].startswith(f"{FEW} of {FEW + 1} files are in papers"), (
                told,
                (tmp_path / "log").read_text(),
            )
        index = f"s3://bucket/rag/{tenant_folder(SHARED)}"
        names = sorted(f"part {number % 2} - {number}.txt" for number in range(FEW))
        asyncio.run(_check(index, names, {name.lower(): value for name, value in store.items()}))


def _text(number: int) -> bytes:
    parts = (f"Part {part} of report {number}. " + "It says a few words more. " * 20 for part in range(4))
    return "\n\n".join(parts).encode()


def _ingest(
    source: Path | str, variables: dict[str, str], log: Path, kills: Sequence[tuple[int, tuple[str, ...]]]
) -> tuple[list[str], int]:
    """The lines that the command prints, and how many processes were killed meanwhile."""
    command = [PYTHON, "-m", "infra.ray.ingest", str(source), "--collection", "papers", "--cpus", "2"]
    lines, waiting = list[str](), list(kills)
    with log.open("ab") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if not OURS.fullmatch(line.rstrip()):
                # Ray tells there of workers that have died
                continue
            lines.append(line.rstrip())
            if waiting and len(lines) >= waiting[0][0] and _kill(process.pid, waiting[0][1]):
                waiting.pop(0)
        # one file is broken
        assert process.wait(300) == 1, log.read_text(errors="replace")[-3000:]
    finally:
        process.kill()
        process.communicate()
        WATCH.took_file(log)
    return lines, len(kills) - len(waiting)


def _kill(root: int, names: tuple[str, ...]) -> bool:
    """Kill the first process beneath ``root`` whose title begins with the first of these names that any has."""
    parents, titles = {}, {}
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(one.name)] = int((one / "stat").read_text().rsplit(")", 1)[1].split()[1])
            titles[int(one.name)] = (one / "cmdline").read_bytes().decode(errors="replace")
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    for name in names:
        for pid in sorted(family):
            if titles.get(pid, "").startswith(name):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
    return False


async def _check(index: str, names: list[str], store: dict[str, str] | None = None) -> None:
    connection = await lancedb.connect_async(index, storage_options=store)
    table = await connection.open_table("c-papers")
    rows = await table.query().select(["id", "document", "ordinal", "names", "passages"]).to_list()
    assert max(Counter(row["id"] for row in rows).values()) == 1, "no passage is there twice"
    by_document: dict[str, list[int]] = {}
    for row in rows:
        by_document.setdefault(row["document"], []).append(row["ordinal"])
    assert all(sorted(by_document[row["document"]]) == list(range(row["passages"])) for row in rows)
    assert sorted(name for row in rows if row["ordinal"] == 0 for name in row["names"]) == names
