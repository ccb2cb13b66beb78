"""Which replica a key belongs to: consistent hashing with bounded loads.

After Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016): a key goes to the first
replica behind its place on the ring that has not more than its bound of all calls. So the same key finds the same
replica, a replica that comes or goes moves the keys of its arcs alone, and none gets more than it can do.
"""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

POINTS = 64
# of a replica's share of all calls: what a new conversation may find, and one that has been there before
NEW, KNOWN = 1.05, 1.5


class Load(NamedTuple):
    """Calls that a replica has, and how many it computes at the same time."""

    calls: int
    slots: int


class Ring:
    """Each name has 64 places on a circle of 64-bit numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        self._points = sorted((_hash(f"{name}#{point}".encode()), name) for name in names for point in range(POINTS))
        self._hashes = [point for point, _ in self._points]
        self._names = len(names)

    def walk(self, key: bytes) -> Iterator[str]:
        """All names in the order in which they come behind the key's place, each once."""
        start, seen = bisect.bisect_right(self._hashes, _hash(key)), set[str]()
        for index in range(len(self._points)):
            name = self._points[(start + index) % len(self._points)][1]
            if name not in seen:
                seen.add(name)
                yield name
                if len(seen) == self._names:
                    return

    def place(self, key: bytes, loads: Mapping[str, Load], known: str | None = None) -> str | None:
        """The key's place among those of ``loads``; None where there are none.

        ``known`` is where it was before: it stays there while a slot is free, and within a wider bound, since what is
        computed of it is there.
        """
        calls, slots = sum(load.calls for load in loads.values()) + 1, sum(load.slots for load in loads.values())

        def has_room(name: str, bound: float) -> bool:
            load = loads.get(name)
            return load is not None and load.calls < math.ceil(bound * calls * load.slots / slots)

        before = loads.get(known) if known is not None else None
        if before is not None and known is not None and (before.calls < before.slots or has_room(known, KNOWN)):
            return known
        return next((name for name in self.walk(key) if has_room(name, NEW)), None)


def _hash(value: bytes) -> int:
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big")
