"""A lock on an open file, held by the operating system: it ends with its holder, however that ends."""

import sys
from typing import BinaryIO

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
