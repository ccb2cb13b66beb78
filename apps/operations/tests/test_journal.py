"""The ledger's journal: what was answered outlives its process, is written down once, and a full disk stops no call."""

import errno
import logging
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import pytest

from apps.core.calls import CallRecord, Usage
from apps.core.errors import NoStorage
from apps.operations.budgets import Budgets
from apps.operations.database import Database
from apps.operations.journal import Journal, new_file
from apps.operations.ledger import Ledger
from apps.operations.ledger_rows import END, HEADER, decoded, encoded, entry_of
from apps.tests.support.accounts import books, call, key, written

FREE = key(None)
COST = 0.25


def of_dead_process(folder: Path, *calls: CallRecord) -> Path:
    """The file that a process leaves that was killed after it had answered these."""
    journal = Journal(folder)
    journal.open()
    for one in calls:
        journal.append(one)
    journal.close()
    [path] = folder.iterdir()
    return path


def opened(folder: Path) -> tuple[Journal, list[CallRecord]]:
    journal = Journal(folder)
    return journal, journal.open()


async def started(database: Database, journal: Journal, *, required: bool = False) -> Ledger:
    ledger = Ledger(database, journal=journal, journal_required=required)
    await ledger.start()
    return ledger


async def reserved(database: Database, folder: Path, *calls: CallRecord) -> Ledger:
    """The ledger of a process in which these calls have begun."""
    ledger = await started(database, Journal(folder / "first"))
    for one in calls:
        await Budgets(database, ledger).opening(one)
    return ledger


def full_disk(path: Path, size: int) -> BinaryIO:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def records(path: Path) -> bytes:
    """What a file holds, without the room behind it."""
    return path.read_bytes().rstrip(b"\0")


def test_a_record_read_again_makes_the_same_row() -> None:
    odd = CallRecord(key(), "/v1/chat/completions", "asked\0\ud800" * 100, streamed=True, model="m", provider="p")
    odd.usage, odd.duration, odd.first_token, odd.spent = Usage(10**12, 3, 2, 0.1, estimated=True), 1.5, 0.5, 0.7
    reused = call(FREE, cost=1e-9)
    reused.reuse("hit", 3.0)
    for one in (odd, reused, call(), CallRecord(key(None, "other"), "/generate", "", outcome="CLIENT_GONE")):
        again = decoded(encoded(one))
        assert entry_of(again) == entry_of(one)


async def test_calls_of_a_dead_process_are_written_once_and_charged(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    paid = [call(cost=COST) for _ in range(3)]
    first = await reserved(database, tmp_path, *paid)
    await first.aclose()
    of_dead_process(folder, *paid, call(FREE))
    ledger = await started(database, Journal(folder))
    await written(ledger)
    assert ledger.state().replayed == 4
    await ledger.aclose()
    found = await books(database)
    assert (found.rows, found.spent, found.reserved) == (4, 3 * COST * 10**9, 0)
    assert list(folder.iterdir()) == []
    again = await started(database, Journal(folder))
    await again.aclose()
    assert (await books(database)).rows == 4


async def test_a_row_that_was_written_before_the_end_is_not_written_or_charged_twice(
    database: Database, tmp_path: Path
) -> None:
    both, only_answered = call(cost=COST), call(cost=COST)
    first = await reserved(database, tmp_path, both, only_answered)
    first.closing(both)
    await first.aclose()
    of_dead_process(tmp_path / "journal", both, only_answered)
    ledger = await started(database, Journal(tmp_path / "journal"))
    await ledger.aclose()
    found = await books(database)
    assert (found.rows, found.spent, found.reserved) == (2, 2 * COST * 10**9, 0)


async def test_while_the_database_is_away_the_end_of_the_process_loses_nothing(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = await started(Database("postgresql://nobody@127.0.0.1:1/none", tmp_path), Journal(tmp_path / "journal"))
    for _ in range(5):
        away.closing(call(FREE))
    await away.aclose(within=0.1)
    assert "5 calls are not in the ledger, 5 of them are in the journal" in caplog.text
    back = await started(database, Journal(tmp_path / "journal"))
    await back.aclose()
    assert (await books(database)).rows == 5


@pytest.mark.parametrize("cut", [1, 5, HEADER.size, 40])
def test_a_last_record_that_is_cut_off_was_not_answered(cut: int, tmp_path: Path) -> None:
    path = of_dead_process(tmp_path / "journal", call(), call())
    data = records(path)
    path.write_bytes(data[: len(data) - cut])
    journal, left = opened(tmp_path / "journal")
    assert len(left) == 1
    journal.close()


def test_a_record_that_was_damaged_ends_the_file(tmp_path: Path) -> None:
    path = of_dead_process(tmp_path / "journal", call(), call(), call())
    data = bytearray(records(path))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    journal, left = opened(tmp_path / "journal")
    assert len(left) == 1
    journal.close()


def test_a_file_of_another_version_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "journal"
    path = of_dead_process(folder, call())
    data = b"[99]"
    path.write_bytes(HEADER.pack(len(data), zlib.crc32(data)) + data)
    journal, left = opened(folder)
    journal.close()
    assert left == []
    assert path.exists()
    assert "another version" in caplog.text


def test_the_file_of_a_living_process_is_its_own(tmp_path: Path) -> None:
    living, _ = opened(tmp_path)
    living.append(call())
    other, left = opened(tmp_path)
    assert left == []
    assert len(list(tmp_path.iterdir())) == 2
    living.close()
    other.close()
    third, left = opened(tmp_path)
    assert len(left) == 1
    third.close()


def test_settled_calls_take_no_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path, most_bytes=1000)
    journal.open()
    for _ in range(3):
        rows = [call() for _ in range(20)]
        for one in rows:
            journal.append(one)
        assert len(list(tmp_path.iterdir())) > 3
        journal.settle(rows)
        [file] = tmp_path.iterdir()
        assert file.read_bytes().startswith(END)
    assert file.stat().st_mode & 0o077 == 0
    journal.close()
    assert list(tmp_path.iterdir()) == []


async def test_on_a_full_disk_calls_go_on_and_it_is_said_once(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = await started(database, Journal(tmp_path / "journal", new_file=full_disk))
    for _ in range(3):
        await ledger.opening(call(FREE))
        ledger.closing(call(FREE))
    await written(ledger)
    assert ledger.state().journal_failures == 4
    await ledger.aclose()
    assert (await books(database)).rows == 3
    assert caplog.text.count("journal cannot be written (No space left on device)") == 1


async def test_where_the_journal_is_required_a_full_disk_refuses_calls_until_there_is_room(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    place = tmp_path / "journal"
    place.write_text("a file where a folder should be")
    ledger = await started(database, Journal(place, clock=lambda: now[0]), required=True)
    for _ in range(3):
        with pytest.raises(NoStorage):
            await ledger.opening(call(FREE))
    assert ledger.state().journal_failures == 2
    place.unlink()
    with pytest.raises(NoStorage):
        await ledger.opening(call(FREE))
    now[0] += 2
    with caplog.at_level(logging.INFO):
        await ledger.opening(call(FREE))
    assert "can be written again" in caplog.text
    ledger.closing(call(FREE))
    await ledger.aclose()
    assert (await books(database)).rows == 1
    assert list(place.iterdir()) == []


def test_a_file_that_another_start_takes_away_before_it_is_locked_is_made_again(tmp_path: Path) -> None:
    other, races = Journal(tmp_path), iter([True])

    def raced(path: Path, size: int) -> BinaryIO:
        file = new_file(path, size)
        if next(races, False):
            other.open()
        return file

    journal = Journal(tmp_path, new_file=raced)
    journal.open()
    kept = call(key(None), COST)
    journal.append(kept)
    journal.close()
    other.close()
    assert not journal.failing
    third, left = opened(tmp_path)
    third.close()
    assert [one.id for one in left] == [kept.id]


def test_a_disk_that_fails_is_seen_by_the_next_batch_and_its_file_is_used_no_more(tmp_path: Path) -> None:
    files: list[BinaryIO] = []

    def remembered(path: Path, size: int) -> BinaryIO:
        files.append(new_file(path, size))
        return files[-1]

    journal = Journal(tmp_path, new_file=remembered)
    journal.open()
    before, after = call(), call()
    journal.append(before)
    # as a disk that has become read-only: pages can still be written, and the system call cannot
    descriptor = os.open(next(tmp_path.iterdir()), os.O_RDONLY)
    os.dup2(descriptor, files[0].fileno())
    os.close(descriptor)
    journal.settle([])
    assert journal.failing
    journal.append(after)
    assert not journal.failing
    assert len(files) == 2
    journal.close()
    again, left = opened(tmp_path)
    again.close()
    assert {one.id for one in left} == {before.id, after.id}


def test_where_only_dead_processes_files_can_be_read_their_calls_stay(tmp_path: Path) -> None:
    path = of_dead_process(tmp_path, call())
    kept = records(path)
    full = Journal(tmp_path, new_file=full_disk)
    left = full.open()
    full.append(call())
    assert len(left) == 1
    full.close()
    assert records(path) == kept
