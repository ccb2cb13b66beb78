"""The prefix cache: sequences' keys and values in memory, and in blocks on disk.

In memory there is a fixed number of caches, each with the tokens whose keys and values it holds. An answer that ends
leaves its cache behind; the next prompt that begins alike goes on from there, or from a copy. The least recently used
one is given up first, or its blocks alone where those are short. So memory is bounded by the number of caches and of
blocks. A tenant never goes on from another one's cache: how fast an answer begins would tell what others asked. Used by
one thread; ``longest`` may be called by others.

On disk they survive a restart and are shared by processes. A sequence is kept in blocks of 32 tokens, a file each. A
block's name is a hash of the model, the kernels, the tenant and every token up to its end, so that a block stands for
one beginning only, equal beginnings share their blocks, and no text is written. A look is a look into the folder. Files
are written under another name and renamed, and hold a checksum: one that is broken counts as missing. The least
recently used go first; what was not used for a week too.
"""

import contextlib
import hashlib
import logging
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from apps.local.engine.batching.step import Step

log = logging.getLogger(__name__)

BLOCK = 32
MAGIC = b"genaikv1"
# copies that wait for the disk; what does not fit is not kept
MOST_WAITING = 64 << 20
KEPT_SECONDS = 7 * 86400.0
REST_AFTER_ERROR = 60.0
# an eviction makes room for more than the next block
EVICTED_DOWN_TO = 0.9
SUFFIX = ".kv"


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """``blocks`` hold keys and values of a prompt's tokens from ``begin`` on, BLOCK tokens each."""

    begin: int
    blocks: Sequence[memoryview]

    @property
    def end(self) -> int:
        return self.begin + BLOCK * len(self.blocks)


class PrefixStore:
    """At most ``most_bytes`` in ``folder``. ``identity`` names all that keys and values depend on besides tokens.

    ``load`` may be called from any thread, ``keep`` from one; a thread of its own writes.
    """

    def __init__(self, folder: Path, identity: str, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._identity = identity
        self._most_bytes = most_bytes
        self._clock = clock
        self._waiting: deque[tuple[Path, bytes]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._rests_until = 0.0
        # unknown until the folder is looked through at the first write
        self._bytes: int | None = None
        self._thread = threading.Thread(target=self._write_all, name="local-prefix-store", daemon=True)
        self._thread.start()

    def load(self, tenant: str, prompt: Sequence[int], known: int) -> StoredPrefix | None:
        """What is kept of the beginning of ``prompt`` beyond its first ``known`` tokens; never its last token."""
        files = list(self._files(tenant, prompt[:-1]))
        first = known // BLOCK
        blocks: list[memoryview] = []
        for file in files[first:]:
            block = self._read(file)
            if block is None:
                break
            blocks.append(block)
        if not blocks or first + len(blocks) <= known // BLOCK:
            return None
        # the end of a beginning goes before its start, without which it cannot be found
        for file in reversed(files[: first + len(blocks)]):
            with contextlib.suppress(OSError):
                os.utime(file, (self._clock(),) * 2)
        return StoredPrefix(first * BLOCK, blocks)

    def keep(self, tenant: str, tokens: Sequence[int], block: Callable[[int, int], bytes]) -> None:
        """Copies what is not kept yet of a sequence, by ``block(start, stop)``, to be written soon."""
        if self._clock() < self._rests_until:
            return
        for number, file in enumerate(self._files(tenant, tokens)):
            if file.exists():
                continue
            if self._waiting_bytes >= MOST_WAITING:
                return
            values = block(number * BLOCK, (number + 1) * BLOCK)
            with self._changed:
                self._waiting.append((file, values))
                self._waiting_bytes += len(values)
                self._changed.notify()

    def close(self) -> None:
        """Waits until what was handed in is written."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _files(self, tenant: str, tokens: Sequence[int]) -> Iterator[Path]:
        """Of each whole block of ``tokens``."""
        name = hashlib.sha256(f"{self._identity}\0{tenant}".encode()).digest()
        values = np.asarray(tokens[: len(tokens) // BLOCK * BLOCK], np.int32).reshape(-1, BLOCK)
        for block in values:
            name = hashlib.sha256(name + block.tobytes()).digest()
            yield self._folder / f"{name.hex()[:40]}{SUFFIX}"

    def _read(self, file: Path) -> memoryview | None:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("A kept prefix cannot be read: %s", error.strerror)
            return None
        head = len(MAGIC) + 4
        if content[: len(MAGIC)] == MAGIC and content[len(MAGIC) : head] == _checksum(content[head:]):
            return memoryview(content)[head:]
        log.warning("A kept prefix is broken and is removed: %s", file.name)
        with contextlib.suppress(OSError):
            file.unlink()
        return None

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                file, values = self._waiting[0]
            try:
                self._write(file, values)
            except OSError as error:
                self._rests_until = self._clock() + REST_AFTER_ERROR
                log.warning("Prefixes cannot be kept in %s (%s): none for a minute", self._folder, error.strerror)
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(values)

    def _write(self, file: Path, values: bytes) -> None:
        if self._clock() < self._rests_until or file.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = len(MAGIC) + 4 + len(values)
        self._make_room(size)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            # keys and values tell much of the text that they were computed from
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(MAGIC + _checksum(values))
                opened.write(values)
            unfinished.replace(file)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        self._bytes = (self._bytes or 0) + size

    def _make_room(self, size: int) -> None:
        """Looks through the folder where this process's account says that it is full: others write there too."""
        if self._bytes is not None and self._bytes + size <= self._most_bytes:
            return
        found = []
        for file in self._folder.iterdir():
            # another process may be faster
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                found.append((status.st_mtime, status.st_size, file))
        total = sum(each for _, each, _ in found)
        limit = self._most_bytes if total + size <= self._most_bytes else int(self._most_bytes * EVICTED_DOWN_TO)
        for modified, each, file in sorted(found):
            if total + size <= limit and self._clock() - modified < KEPT_SECONDS:
                break
            file.unlink(missing_ok=True)
            total -= each
        self._bytes = total


def _checksum(values: bytes) -> bytes:
    return zlib.crc32(values).to_bytes(4, "little")


@dataclass(eq=False, slots=True)
class Held:
    """``tokens`` are those that ``memory`` holds keys and values of, from position 0 on."""

    memory: Any
    tokens: list[int] = field(default_factory=list)
    tenant: str = ""
    busy: bool = False
    used: int = 0


class PrefixCache:
    """At most ``size`` caches; at least one of them must be free at each ``take``. ``store`` is the second floor."""

    def __init__(self, step: Step, size: int, store: PrefixStore | None = None) -> None:
        self._step = step
        self._size = size
        self._store = store
        self._held: list[Held] = []
        self._clock = count()

    def longest(self, prompt: Sequence[int], tenant: str) -> int:
        """How many tokens of ``prompt`` a cache holds, about: what it says may have changed already."""
        return self._longest(prompt, tenant)[1]

    def take(self, prompt: Sequence[int], tenant: str = "", stored: StoredPrefix | None = None) -> Held:
        """A cache that holds as much of the beginning of ``prompt`` as any does, but never its last token.

        ``stored`` is what the store has of it, and goes in where that is more.
        """
        held = self._take(prompt, tenant)
        held.tenant = tenant
        begin = len(held.tokens)
        if stored is not None and stored.begin <= begin < stored.end < len(prompt) and self.ensure(held, stored.end):
            for at, block in enumerate(stored.blocks):
                start = stored.begin + at * BLOCK
                if start + BLOCK > begin:
                    self._step.write_block(held.memory, start, start + BLOCK, block)
            held.tokens = list(prompt[: stored.end])
        return held

    def _take(self, prompt: Sequence[int], tenant: str) -> Held:
        best, shared = self._longest(prompt, tenant)
        if best is not None and not best.busy and shared * 2 >= len(best.tokens):
            return self._hand_out(best, shared)
        target = self._least_recently_used(best)
        if best is None or target is best:
            return self._hand_out(target, shared if target is best else 0)
        self._hand_out(target, 0)
        if self.ensure(target, shared, keep=best):
            self._step.copy_prefix(best.memory, target.memory, shared)
            target.tokens = best.tokens[:shared]
        return target

    def available_blocks(self) -> int:
        """Free ones, and those of caches that no answer uses."""
        return self._step.free_blocks + sum(self._step.blocks_of(held.memory) for held in self._held if not held.busy)

    def ensure(self, held: Held, tokens: int, keep: Held | None = None) -> bool:
        """Room for the first ``tokens`` positions of ``held``, at the cost of caches that no answer uses, oldest first.

        ``keep`` is spared. False where that is not enough.
        """
        while not self._step.reserve(held.memory, tokens):
            idle = [each for each in self._held if not each.busy and each is not keep and each is not held]
            idle = [each for each in idle if self._step.blocks_of(each.memory)]
            if not idle:
                return False
            oldest = min(idle, key=lambda each: each.used)
            oldest.tokens.clear()
            self._step.release(oldest.memory, 0)
        return True

    def give_back(self, held: Held, keep: bool = True) -> None:
        """``keep`` False: on disk nothing of it may be kept."""
        if self._store is not None and keep:
            self._store.keep(held.tenant, held.tokens, partial(self._step.read_block, held.memory))
        self._step.release(held.memory, len(held.tokens))
        held.busy = False
        held.used = next(self._clock)

    def _hand_out(self, held: Held, shared: int) -> Held:
        del held.tokens[shared:]
        self._step.release(held.memory, shared)
        held.busy = True
        held.used = next(self._clock)
        return held

    def _longest(self, prompt: Sequence[int], tenant: str) -> tuple[Held | None, int]:
        best, longest = None, 0
        for held in [held for held in self._held if held.tenant == tenant]:
            shared = min(_shared(held.tokens, prompt), len(prompt) - 1)
            if shared > longest or (shared == longest and shared and not held.busy):
                best, longest = held, shared
        return best, longest

    def _least_recently_used(self, keep: Held | None) -> Held:
        if len(self._held) < self._size:
            self._held.append(Held(self._step.new_cache()))
            return self._held[-1]
        free = [held for held in self._held if not held.busy]
        return min([held for held in free if held is not keep] or free, key=lambda held: held.used)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    different = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(different[0]) if len(different) else n
