"""The table of replicas: what is known of each, and which one a call goes to. Waits for nothing and opens nothing.

A replica is heard of by its answers to probes. One whose probe is not answered, that refuses a connection, that drains,
or whose engine computes nothing although calls run, gets no new calls. One that is merely silent (its machine is busy,
or gone) is asked where there is no other, until it is lost.

Calls that begin alike belong together, since a replica keeps what it has computed of prompts: the key of a call is its
tenant, whose computed prompts no other tenant reads, and the prompt's first block, all up to the first turn of the
user. The follow-up turns of a conversation have the same; other conversations with the same instructions have another,
so that they spread.

A key's replica is found by consistent hashing with bounded loads, after Mirrokni, Thorup and Zadimoghaddam, "Consistent
Hashing with Bounded Loads" (2016): a key goes to the first replica behind its place on the ring that has not more than
its bound of all calls. So the same key finds the same replica, a replica that comes or goes moves the keys of its arcs
alone, and none gets more than it can do.
"""

import bisect
import json
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

from apps.core.ports import Readiness, digest_of
from apps.gateway.protocol import WireCall
from apps.models.capacity import Capacity, Kind, ModelCapacity

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


LONGEST = 8192


def affinity(call: WireCall) -> bytes:
    """The key of a call, by its body: a hash, which says nothing of what it was made from."""
    return blake2b(f"{call.caller.tenant}\n".encode() + _first_block(call.body)[:LONGEST], digest_size=16).digest()


def _first_block(body: Mapping[str, Any]) -> bytes:
    messages = body.get("messages")
    if not isinstance(messages, list):
        messages = body.get("input")
    if isinstance(messages, list) and messages and isinstance(messages[0], dict):
        instructions = body.get("instructions") or body.get("system") or ""
        return json.dumps([instructions, *_to_first_user(messages)], ensure_ascii=True).encode()
    prompt = body.get("prompt", messages)
    return json.dumps(prompt if not isinstance(prompt, str) else prompt[:LONGEST]).encode()


def _to_first_user(messages: list[Any]) -> list[Any]:
    for count, message in enumerate(messages, 1):
        if isinstance(message, dict) and message.get("role") == "user":
            return messages[:count]
    return messages[:1]


Standing = Literal["unknown", "ready", "draining", "silent", "out"]

# a probe that is not answered for so long: its replica gets nothing new
ANSWER_SECONDS = 0.65
# no probe was answered for so long: what runs there is given up
LOST_SECONDS = 15.0
# a step of the engine that takes longer is none
STALLED_SECONDS = 10.0
MOST_PLACES = 10_000
# the name of whatever local model a replica has
ANY = "local"


@dataclass(slots=True, eq=False)
class Replica:
    """One process. ``in_flight`` are this process's calls there; ``others`` those of others, as of its last answer.

    Both are counted by kind: an embedding takes no slot of a chat.
    """

    address: str
    standing: Standing = "unknown"
    reason: str = "It has not answered yet"
    capacity: Capacity | None = None
    in_flight: Counter[Kind] = field(default_factory=Counter)
    others: Counter[Kind] = field(default_factory=Counter)
    answered_at: float = 0.0
    probed_at: float | None = None
    """When the first probe since its last answer was sent; None where all are answered."""
    stalled: bool = False

    def model(self, kind: Kind, name: str) -> ModelCapacity | None:
        """Its model of a kind and name that can answer now; None where it has none. ANY is the one that there is."""
        return next((model for model in self.capacity_of(kind, name) if model.status == "ready"), None)

    @property
    def is_well(self) -> bool:
        """Whether it answers, and nothing of it is about to change."""
        models = [] if self.capacity is None else self.capacity.models
        return self.standing == "ready" and all(model.status != "loading" for model in models)

    def load(self, kind: Kind) -> int:
        """Calls of a kind that it has."""
        return self.in_flight[kind] + self.others[kind]

    def capacity_of(self, kind: Kind, name: str) -> list[ModelCapacity]:
        """What it says of its models of this kind and name, whether they can answer or not."""
        models = [] if self.capacity is None else self.capacity.models
        return [model for model in models if model.kind == kind and name in (ANY, "", model.id)]


@dataclass(slots=True)
class ReplicaTable:
    """``clock`` is monotonic, in seconds."""

    clock: Callable[[], float] = time.monotonic
    replicas: dict[str, Replica] = field(default_factory=dict)
    _ring: Ring = field(default_factory=lambda: Ring(()))
    # where conversations were last, by the hash of their keys
    _places: OrderedDict[bytes, str] = field(default_factory=OrderedDict)

    def update(self, addresses: Iterable[str]) -> tuple[list[Replica], list[Replica]]:
        """Know these addresses and no others. Returns the replicas that are new and those that are gone."""
        wanted = list(dict.fromkeys(addresses))
        gone = [self.replicas.pop(address) for address in list(self.replicas) if address not in wanted]
        new = [Replica(address, answered_at=self.clock()) for address in wanted if address not in self.replicas]
        self.replicas |= {replica.address: replica for replica in new}
        if new or gone:
            self._ring = Ring(sorted(self.replicas))
        return new, gone

    def probe_sent(self, replica: Replica) -> None:
        """A probe is sent."""
        if replica.probed_at is None:
            replica.probed_at = self.clock()

    def probe_answered(self, replica: Replica, capacity: Capacity, in_flight: Mapping[Kind, int]) -> None:
        """A probe is answered; ``in_flight`` are the calls that this process had there when it was sent."""
        replica.answered_at, replica.probed_at, replica.capacity = self.clock(), None, capacity
        # what is negative, or nothing, is left out
        replica.others = _load(capacity) - Counter(in_flight)
        stuck = next((m for m in capacity.models if (m.stalled or 0.0) > STALLED_SECONDS), None)
        replica.stalled = stuck is not None
        if stuck is not None:
            replica.standing, replica.reason = "out", f"The engine of {stuck.id} has computed nothing for too long"
        elif capacity.draining:
            replica.standing, replica.reason = "draining", "It is shutting down"
        else:
            replica.standing, replica.reason = "ready", "It answers"

    def missed(self, replica: Replica, reason: str, *, refused: bool = False) -> None:
        """A probe or a call has failed; ``refused``: no process listens there, which leaves nothing to wait for."""
        if refused:
            replica.standing, replica.reason = "out", reason
        elif self.is_late(replica) and replica.standing != "out":
            spoke = replica.capacity is not None and not self.is_lost(replica)
            replica.standing, replica.reason = ("silent" if spoke else "out"), reason

    def is_late(self, replica: Replica) -> bool:
        """Whether it owes an answer for so long that it gets nothing new."""
        return replica.probed_at is not None and self.clock() - replica.probed_at > ANSWER_SECONDS

    def is_out(self, replica: Replica) -> bool:
        """Whether it gets nothing new."""
        return replica.standing != "ready" or self.is_late(replica)

    def is_lost(self, replica: Replica) -> bool:
        """Whether calls that run there are to be given up: it has been silent for long, or its engine is stuck."""
        silent = replica.probed_at is not None and self.clock() - replica.answered_at > LOST_SECONDS
        return replica.stalled or silent

    def choose(self, key: bytes, kind: Kind, name: str, tried: Collection[str] = ()) -> Replica | None:
        """The replica that a call goes to; None where none can take it. Full ones come last, those ``tried`` never."""
        able = [replica for replica in self._able(kind, name) if replica.address not in tried]
        # where all are late, it may be this process that was
        able = [replica for replica in able if not self.is_late(replica)] or able
        free = [replica for replica in able if not _is_full(replica, kind, name)] or able
        loads = {r.address: Load(r.load(kind), _slots(r, kind, name)) for r in free}
        if not loads:
            return None
        place = self._ring.place(key, loads, self._places.get(key))
        if place is None:
            return None
        if kind == "chat":
            # what is computed of a prompt is kept there; of a text to embed nothing is
            self._remember(key, place)
        return self.replicas[place]

    def _remember(self, key: bytes, place: str) -> None:
        self._places[key] = place
        self._places.move_to_end(key)
        if len(self._places) > MOST_PLACES:
            self._places.popitem(last=False)

    def readiness(self, kind: Kind, name: str) -> Readiness:
        """Of a model that the replicas have: as ready as the readiest of them."""
        model = self.capacity(kind, name)
        if model is not None:
            able = len(list(self._able(kind, name)))
            details = {"context_length": model.context, "slots": model.slots, "running": model.running}
            details |= {"waiting": model.waiting, "queue_size": model.queue_size, "replicas": able}
            known = {key: value for key, value in details.items() if value is not None}
            return Readiness(model.id, model.status, model.reason, known, model.retry_after)
        standing = [f"{replica.standing}: {replica.reason}" for replica in self.replicas.values()]
        reason = "; ".join(dict.fromkeys(standing)) or "No address of a replica is known"
        unknown = any(replica.standing == "unknown" for replica in self.replicas.values())
        return Readiness(name, "loading" if unknown else "failed", reason, {}, 1.0)

    def capacity(self, kind: Kind, name: str) -> ModelCapacity | None:
        """What they can take together; where none can answer, of one that says why. None where nothing is known."""
        able = [(replica, model) for replica in self._able(kind, name) if (model := replica.model(kind, name))]
        if not able:
            found = (m for r in self.replicas.values() if r.standing == "ready" for m in r.capacity_of(kind, name))
            return next(found, None)
        first = able[0][1]
        models = [model for _, model in able]
        waits = [model.predicted_wait for model in models if model.predicted_wait is not None]
        rates = [model.tokens_per_second for model in models if model.tokens_per_second is not None]
        contexts = [model.context for model in models if model.context is not None]
        revisions = sorted({model.revision or "" for model in models})
        update = {
            # while replicas are exchanged for those of another revision, it is that of both
            "revision": revisions[0] or None if len(revisions) == 1 else digest_of(*revisions),
            "slots": sum(model.slots or 0 for model in models),
            "running": sum(model.running or 0 for model in models),
            "waiting": sum(model.waiting or 0 for model in models),
            "queue_size": sum(model.queue_size or 0 for model in models),
            "steps": sum(model.steps or 0 for model in models),
            "stalled": max((model.stalled or 0.0 for model in models), default=0.0),
            "tokens_per_second": round(sum(rates), 2) if rates else None,
            "context": min(contexts, default=None),
            "predicted_wait": min(waits, default=None),
        }
        return first.model_copy(update=update)

    def _able(self, kind: Kind, name: str) -> Iterator[Replica]:
        able = [replica for replica in self.replicas.values() if replica.model(kind, name) is not None]
        ready = [replica for replica in able if replica.standing == "ready"]
        yield from ready or [replica for replica in able if replica.standing == "silent"]


def _load(capacity: Capacity) -> Counter[Kind]:
    loads: Counter[Kind] = Counter()
    for model in capacity.models:
        loads[model.kind] += model.load
    return loads


def _slots(replica: Replica, kind: Kind, name: str) -> int:
    model = replica.model(kind, name)
    return max(1, (model.slots if model is not None else None) or 1)


def _is_full(replica: Replica, kind: Kind, name: str) -> bool:
    model = replica.model(kind, name)
    if model is None or model.slots is None or model.queue_size is None:
        return False
    return replica.load(kind) >= model.slots + model.queue_size
