"""This process: what it is called, the CPUs that it may use, and its first imports of what is heavy.

CPUs are counted by the affinity mask and the cgroup's quota, not by the host's cores. Two threads that import one
package at the same time can see it half made (Python breaks the deadlock of packages whose modules import each other by
handing one of them out early). One lock for all heavy packages keeps every first import whole, and off the event loop.
"""

import asyncio
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

NAME = "genai-project"
VERSION = "0.1.0"


CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")


def available_cpus(root: Path = CGROUP_ROOT, membership: Path = CGROUP_OF_PROCESS) -> int:
    """At least 1. A quota of 1.5 CPUs counts as 2: one thread would leave a third of it idle."""
    cpus = _affinity()
    quota = cgroup_quota(root, membership)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cgroup_quota(root: Path = CGROUP_ROOT, membership: Path = CGROUP_OF_PROCESS) -> float | None:
    """CPUs that the cgroup grants (cgroup v2 and v1), the tightest from the process's own group up to the root.

    None where there is no limit, or no cgroup at all.
    """
    quotas: list[float] = []
    for folder in _folders(root, membership):
        quota = _v2_quota(folder / "cpu.max")
        if quota is None:
            quota = _v1_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        if quota is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folders(root: Path, membership: Path) -> list[Path]:
    """The cgroup folders that limit this process. Inside a container only the root is mounted."""
    folders = [root, root / "cpu", root / "cpu,cpuacct"]
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        folder = root / controllers if controllers else root
        for part in Path(path).parts[1:]:
            folder = folder / part
            folders.append(folder)
    return folders


def _v2_quota(file: Path) -> float | None:
    quota, _, period = _read(file).strip().partition(" ")
    return _ratio(quota, period)


def _v1_quota(quota: Path, period: Path) -> float | None:
    return _ratio(_read(quota).strip(), _read(period).strip())


def _ratio(quota: str, period: str) -> float | None:
    """None for `max`, for -1 (v1's word for no limit) and for a file that is not there."""
    try:
        ratio = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return ratio if ratio > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


T = TypeVar("T")
_LOCK = threading.RLock()
_LOADED: dict[Callable[[], Any], Any] = {}


def import_once(load: Callable[[], T]) -> T:
    """The result of a function that does nothing but import and return names of it; it runs once in a process."""
    if load not in _LOADED:
        with _LOCK:
            if load not in _LOADED:
                # read when torch's OpenMP is loaded: its threads sleep while they wait for each other, since there
                # are as many as cores and others have work to do
                os.environ.setdefault("OMP_WAIT_POLICY", "passive")
                _LOADED[load] = load()
    loaded: T = _LOADED[load]
    return loaded


async def import_aside(load: Callable[[], T]) -> T:
    """The same from the event loop, in a thread of its own where there is anything to import."""
    return import_once(load) if load in _LOADED else await asyncio.to_thread(import_once, load)


CANCEL_AGAIN_SECONDS = 0.5


async def end_loop(task: "asyncio.Task[None]") -> None:
    """Cancel a task that works in turns for ever, and wait for its end.

    A library that it is in may swallow a cancellation (redis-py does so while it connects): it is cancelled again then.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_SECONDS)
