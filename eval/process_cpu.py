"""CPU time of processes, by /proc: what a benchmark can count while other work takes the same cores. Linux only."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NANO = 1e-9
CALM_SHARE = 0.1
CALM_SECONDS = 2.0


def family(root: int) -> set[int]:
    """A process and all beneath it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(_fields(stat)[1])
    found = {root}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_seconds(root: int) -> float:
    """User and system seconds of a process and of all beneath it, to a hundredth."""
    total = 0
    for process in family(root):
        with suppress(OSError):
            fields = _fields(Path(f"/proc/{process}/stat"))
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Threads:
    """Seconds of a process: its event loop runs in the ``main`` thread, what it computes in the ``others``."""

    main: float
    others: float

    def __sub__(self, before: "Threads") -> "Threads":
        return Threads(self.main - before.main, self.others - before.others)


def thread_seconds(process: int) -> Threads:
    """Of the threads that are there."""
    main = others = 0.0
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with suppress(OSError):
            seconds = int((thread / "schedstat").read_text().split()[0]) * NANO
            if thread.name == str(process):
                main = seconds
            else:
                others += seconds
    return Threads(main, others)


def pin(root: int, cores: set[int]) -> None:
    """Have a process and all beneath it run on these cores alone."""
    for process in family(root):
        pin_process(process, cores)


def pin_process(process: int, cores: set[int]) -> None:
    """The same of one process: its threads of now, and what they start."""
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with suppress(OSError):
            os.sched_setaffinity(int(thread.name), cores)


def started_with(variable: str, value: object) -> int:
    """The process that was started with this in its environment: the first of those that inherit it."""
    wanted = f"{variable}={value}".encode()
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (one / "environ").read_bytes().split(b"\0"):
                found.append(int(one.name))
    return min(found)


def await_calm(root: int, within: float) -> None:
    """Until what the processes do by themselves after their start has ended. Raises RuntimeError where it does not."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        before = cpu_seconds(root)
        time.sleep(CALM_SECONDS)
        if cpu_seconds(root) - before < CALM_SHARE * CALM_SECONDS:
            return
    raise RuntimeError("the processes do not come to rest")


def _fields(stat: Path) -> list[str]:
    """Behind the name, which may hold anything; the first is the state."""
    return stat.read_text().rpartition(")")[2].split()
