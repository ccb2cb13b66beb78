"""`python -m apps.cli.documents`: a folder in, answers out, without a server; what goes wrong is told and counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from apps.rag.index.database import missing_requirements
from apps.tests.support.processes import heard, run_module

ROOT = Path(__file__).parents[4]
pytestmark = pytest.mark.local


@pytest.fixture(autouse=True)
def installed() -> None:
    if missing_requirements():
        pytest.skip("needs requirements-local.txt")


def rag(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATA_DIR": str(data)}
    return heard(run_module("apps.cli.documents", arguments, ROOT, environment))


@pytest.mark.long
def test_a_folder_is_ingested_listed_searched_and_deleted(tmp_path: Path) -> None:
    docs, data = tmp_path / "docs", tmp_path / "data"
    (docs / "birds").mkdir(parents=True)
    (docs / ".git").mkdir()
    (docs / "birds" / "owls.md").write_text("# Owls\n\nOwls hunt mice at night.\n")
    (docs / "bread.txt").write_text("Bread is baked from flour.")
    (docs / "broken.pdf").write_text("no PDF")
    (docs / "song.mp3").write_bytes(b"ID3")
    (docs / ".git" / "notes.md").write_text("hidden")
    done = rag(data, "ingest", str(docs), "--collection", "zoo")
    assert done.returncode == 1
    assert "broken.pdf: The file cannot be read. Its name ends with .pdf, but it is text" in done.stderr
    assert done.stdout == "2 of 3 files are in zoo, 2 passages; 2 skipped\n"
    assert f"Skipped {docs / '.git'}: hidden\n" in done.stderr
    assert f"Skipped {docs / 'song.mp3'}: .mp3 is no suffix that is known here (.bmp, .csv, " in done.stderr
    listed = rag(data, "list", "--collection", "zoo").stdout
    assert sorted(line.split("  ")[-1] for line in listed.splitlines()) == ["birds - owls.md", "bread.txt"]
    found = rag(data, "search", "what do owls eat?", "--collection", "zoo", "--top-k", "1")
    assert found.returncode == 0, found.stderr
    assert "birds - owls.md, Owls\n# Owls\n\nOwls hunt mice at night." in found.stdout
    assert "zoo  2 documents, 2 passages, all-MiniLM-L6-v2" in rag(data, "list").stdout
    assert rag(data, "--tenant", "ann", "list").stdout == rag(data, "list", "--tenant", "ann").stdout == ""
    bread = next(line.split()[0] for line in listed.splitlines() if line.endswith("bread.txt"))
    assert rag(data, "delete", "--collection", "zoo", "--document", bread).returncode == 0
    assert rag(data, "delete", "--collection", "zoo").returncode == 0
    gone = rag(data, "search", "owls", "--collection", "zoo")
    assert (gone.returncode, gone.stderr) == (1, "No such collection\n")


@pytest.mark.long
def test_nothing_to_ingest_and_a_wrong_name_are_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = rag(tmp_path / "data", "ingest", str(tmp_path / "empty"), "--collection", "zoo")
    assert (done.returncode, done.stderr) == (1, "No files to ingest there\n")
    (tmp_path / "empty" / "song.mp3").write_bytes(b"ID3")
    done = rag(tmp_path / "data", "ingest", str(tmp_path / "empty"), "--collection", "zoo")
    first, last = done.stderr.splitlines()
    assert (done.returncode, last) == (1, "No files to ingest there")
    assert first.startswith(f"Skipped {tmp_path / 'empty' / 'song.mp3'}: .mp3 is no suffix")
    missing = tmp_path / "missing.txt"
    done = rag(tmp_path / "data", "ingest", str(missing), "--collection", "zoo")
    assert (done.returncode, done.stderr) == (1, f"{missing} cannot be read: No such file or directory\n")
    (tmp_path / "a.txt").write_text("x")
    done = rag(tmp_path / "data", "ingest", str(tmp_path / "a.txt"), "--collection", "Zoo!")
    assert done.returncode == 1 and done.stderr.startswith("A collection's name is")


@pytest.mark.long
def test_a_folder_is_kept_in_step_and_what_is_skipped_is_the_status(tmp_path: Path) -> None:
    docs, data = tmp_path / "docs", tmp_path / "data"
    docs.mkdir()
    (docs / "owls.md").write_text("# Owls\n\nOwls hunt mice at night.\n")
    done = rag(data, "sync", str(docs), "--collection", "zoo")
    assert (done.returncode, done.stdout) == (0, "zoo: 1 added, 0 replaced, 0 deleted, 0 unchanged, 0 skipped\n")
    (docs / "empty.txt").write_bytes(b"")
    done = rag(data, "sync", str(docs), "--collection", "zoo")
    assert (done.returncode, done.stdout) == (3, "zoo: 0 added, 0 replaced, 0 deleted, 1 unchanged, 1 skipped\n")
    assert done.stderr == "Skipped empty.txt: it is empty\n"
    assert rag(data, "sync", str(docs / "none"), "--collection", "zoo").returncode == 1


def test_the_address_of_before_goes_on_with_a_note(tmp_path: Path) -> None:
    environment = {**os.environ, "DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "apps.rag", "list"]
    done = heard(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120))
    assert done.returncode == 0 and "use python -m apps.cli.documents" in done.stderr
