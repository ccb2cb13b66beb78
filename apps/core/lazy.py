"""The first import of what is heavy or optional: one at a time in a process, and never on the event loop.

Two threads that import one package at the same time can see it half made (Python breaks the deadlock of packages whose
modules import each other by handing one of them out early). One lock for all of them keeps every first import whole.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

_LOCK = threading.RLock()
_DONE: set[Callable[[], None]] = set()


def importing() -> AbstractContextManager[bool | None]:
    """The lock to hold around heavy imports, in threads other than the event loop's."""
    return _LOCK


def import_once(imports: Callable[[], None]) -> None:
    """Run a function that does nothing but import; at once where it has run before."""
    if imports not in _DONE:
        with _LOCK:
            if imports not in _DONE:
                imports()
                _DONE.add(imports)


async def import_aside(imports: Callable[[], None]) -> None:
    """The same from the event loop, in a thread of its own where there is anything to do."""
    if imports not in _DONE:
        await asyncio.to_thread(import_once, imports)
