"""Python 3.11 under make coverage: what follows an await in which an exception was caught is seen, too.

A task of 3.11 throws a future's exception into its innermost coroutine; where that one catches it and returns, the
coroutines around it go on without the event that coverage counts on, and their next lines stand there as not run. Here
a task goes on in the ordinary way, and the future raises by itself.
"""

import asyncio
import os
import sys
from typing import Any

from apps.tests.support.fork_server import MEASURED

PythonTask: Any = vars(asyncio.tasks)["_PyTask"]


class ResumedTask(PythonTask):  # type: ignore[misc]
    def _Task__wakeup(self, _: object) -> None:
        self._Task__step()


def follow_tasks() -> None:
    """To be called before a loop is made."""
    if MEASURED in os.environ and sys.version_info < (3, 12):
        vars(asyncio)["Task"] = vars(asyncio.tasks)["Task"] = ResumedTask
