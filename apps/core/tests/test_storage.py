"""What a disk refuses becomes one error of the tree, whoever words it."""

import errno
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from apps.core.errors import NoStorage, NotFound
from apps.core.storage import is_no_storage, storing


def test_a_full_device_is_no_storage(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NoStorage) as caught, storing("a test"), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    assert caught.value.status == 507
    assert caught.value.retry_after
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
        *(OSError(number, "words") for number in (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES)),
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


def test_errors_of_the_tree_pass() -> None:
    with pytest.raises(NotFound), storing("a test"):
        raise NotFound("no")
