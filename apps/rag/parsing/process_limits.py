"""The limits that a parsing process sets itself: the system's own where it has them, a watching thread where not."""

import ctypes
import os
import sys
import threading
import time
from ctypes import wintypes

if sys.platform != "win32":
    import resource

OUT_OF_TIME = 70
OUT_OF_MEMORY = 71
"""Exit codes."""
WATCH_SECONDS = 0.1


class ProcessLimits:
    """``watched`` forces the thread, which Windows and macOS need: they enforce no limit on memory."""

    def __init__(self, memory: int, seconds: float, watched: bool = sys.platform != "linux") -> None:
        self._memory = memory
        self._seconds = seconds
        self._until = float("inf")
        if watched:
            threading.Thread(target=self._watch, daemon=True).start()
        else:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._watched = watched

    def begin_file(self) -> None:
        """From now on, so many seconds of CPU."""
        used = time.process_time()
        self._until = used + self._seconds
        if not self._watched:
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + self._seconds) + 1, hard))

    def _watch(self) -> None:
        while True:
            time.sleep(WATCH_SECONDS)
            if time.process_time() > self._until:
                os._exit(OUT_OF_TIME)
            if memory_in_use() > self._memory:
                os._exit(OUT_OF_MEMORY)


def memory_in_use() -> int:
    """The most that this process has had, in bytes."""
    if sys.platform == "win32":
        return _windows_peak()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _windows_peak() -> int:
    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = [
            ("cb", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            *[(f"size_{number}", ctypes.c_size_t) for number in range(8)],
        ]

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD)
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return int(counters.size_0)
