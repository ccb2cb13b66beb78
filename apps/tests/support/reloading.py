"""A running service whose configuration file changes under it."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from apps.tests.support.processes import Process
from apps.tests.support.waiting import until


@dataclass(slots=True)
class ReloadingService:
    process: Process
    url: str
    file: Path
    log: Path

    def write(self, content: Any) -> None:
        self.file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")

    def hang_up(self, expect: str) -> str:
        """Send the signal and wait for a line of the log behind what was there; what came since."""
        before = len(self.log.read_text())
        self.process.send_signal(signal.SIGHUP)
        assert until(lambda: expect in self.log.read_text()[before:]), self.log.read_text()
        time.sleep(0.1)
        return self.log.read_text()[before:]
