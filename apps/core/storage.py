"""The disk: what it says when it is full, read-only or broken, as an error of the tree; and locks on open files.

A lock is held by the operating system: it ends with its holder, however that ends.

"""

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from apps.core.errors import AppError, NoStorage

# no room or quota, read-only, not allowed, too large, broken, or not there any more
ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.ENOTDIR, errno.EEXIST}
ERRNOS |= {getattr(errno, "EDQUOT", errno.ENOSPC)}
# SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL and SQLITE_CANTOPEN, which the module would have to be imported for
SQLITE = {8, 10, 13, 14}
# as the index's engine words them, which has one class for all its errors
WORDS = ("no space left on device", "read-only file system", "os error 28", "os error 30", "disk quota exceeded")
RETRY_AFTER = 60.0

log = logging.getLogger(__name__)


def is_no_storage(error: BaseException | None) -> bool:
    """Whether it, or what it came from, is the disk's."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, NoStorage) or (isinstance(error, OSError) and error.errno in ERRNOS):
            return True
        code: int | None = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in SQLITE:
            return True
        if isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Raise NoStorage for what the disk refuses inside the block, with a line in the log; ``what`` is for that."""
    try:
        yield
    except AppError:
        raise
    except Exception as error:
        if not is_no_storage(error):
            raise
        log.error("The disk refuses %s: %s", what, getattr(error, "strerror", None) or type(error).__name__)
        text = "The service cannot write to its disk, and has kept nothing of this; try again later"
        raise NoStorage(text, retry_after=RETRY_AFTER) from error


if sys.platform == "win32":
    import msvcrt

    # far behind what is written, since Windows keeps others from reading what is locked
    _PLACE = 1 << 40

    def try_lock(file: BinaryIO) -> bool:
        """Take the lock; False where another holder has it. Closing the file gives it back."""
        try:
            file.seek(_PLACE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def try_lock(file: BinaryIO) -> bool:
        """Take the lock; False where another holder has it. Closing the file gives it back."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
