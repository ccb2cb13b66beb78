"""What a disk refuses becomes one error of the tree, whoever words it."""

import errno
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from apps.core.errors import NoStorage, NotFound
from apps.core.storage import is_no_storage, storing, try_lock


def test_a_full_device_is_no_storage(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NoStorage) as caught, storing("a test"), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    assert caught.value.status == 507
    assert caught.value.retry_after == 60
    assert "The disk refuses a test: No space left on device" in caplog.text


def test_a_full_database_is_no_storage_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE t (x BLOB)")
        database.execute("PRAGMA max_page_count = 3")
        with pytest.raises(NoStorage), storing("a test"):
            database.execute("INSERT INTO t VALUES (zeroblob(100000))")
        database.execute("PRAGMA max_page_count = 1000")
        with storing("a test"):
            database.execute("INSERT INTO t VALUES (zeroblob(100000))")


def test_a_place_that_cannot_be_opened_is_no_storage(tmp_path: Path) -> None:
    with pytest.raises(NoStorage), storing("a test"):
        sqlite3.connect(tmp_path).execute("SELECT 1")


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "words") for number in (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES, errno.EDQUOT)),
        RuntimeError("LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28)"),
        NoStorage("because"),
    ],
)
def test_kinds_of_refusals(error: Exception) -> None:
    assert is_no_storage(error)
    wrapped = RuntimeError("failed")
    wrapped.__cause__ = error
    assert is_no_storage(wrapped)


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOENT, "no"), RuntimeError("no"), KeyError("x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_no_storage(error)
    with pytest.raises(type(error)), storing("a test"):
        raise error


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        (sqlite3.SQLITE_READONLY_DBMOVED, True),
        (sqlite3.SQLITE_IOERR_FSYNC, True),
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_CANTOPEN, True),
        (sqlite3.SQLITE_BUSY, False),
        (sqlite3.SQLITE_INTERRUPT, False),
        (sqlite3.SQLITE_CORRUPT, False),
        (sqlite3.SQLITE_PROTOCOL, False),
    ],
)
def test_codes_of_sqlite_tell_the_disk_from_the_rest(code: int, refused: bool) -> None:
    error = sqlite3.OperationalError("words")
    error.sqlite_errorcode = code
    assert is_no_storage(error) is refused


def test_errors_that_came_from_each_other_are_looked_at_once() -> None:
    first, second = KeyError("x"), ValueError("no")
    first.__context__, second.__context__ = second, first
    assert not is_no_storage(first)


def test_a_lock_has_one_holder_until_its_file_is_closed(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    with place.open("wb") as first, place.open("wb") as second:
        assert try_lock(first)
        assert not try_lock(second)
        first.close()
        assert try_lock(second)


def test_errors_of_the_tree_pass() -> None:
    with pytest.raises(NotFound), storing("a test"):
        raise NotFound("no")
