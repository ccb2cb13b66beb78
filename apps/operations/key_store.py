"""Keys in the database, and the ring of those that this process has seen to be good.

Keys are made, listed, rotated, revoked and looked up; what is kept of a key cannot be turned back. With the ring a
request costs no query; it trusts what it knows for two seconds at most. Every half second it asks whether any key has
changed, anywhere. While it cannot ask, what it knows runs out, and then no caller is admitted or refused: the answer is
that the database is not there.
"""

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, TypeVar

from apps.core.callers import Budget, Caller
from apps.core.errors import NotFound, StoreUnavailable
from apps.operations.database import Database, with_statements
from apps.operations.group_commit import Work
from apps.operations.key_terms import KeyTerms, digest_of, new_key, parse_budget, parse_expiry, shown_prefix

if TYPE_CHECKING:
    from apps.operations.tables import KeyStatements

T = TypeVar("T")
Row = Mapping[str, Any]
KeyWork = Callable[["KeyStatements"], Awaitable[T]]
ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is kept, without its digest. Times are seconds since 1970."""

    id: str
    prefix: str
    caller: Caller
    networks: tuple[IPv4Network | IPv6Network, ...]
    created_at: float
    rotated_at: float | None
    expires_at: float | None
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class KeysState:
    """``number`` grows with every change; ``exist`` says whether any key was ever made."""

    number: int
    exist: bool


class KeyStore:
    """``secret`` is asked for when it is first needed, since it may have to be made; ``changed`` hears of changes."""

    def __init__(self, database: Database, secret: Callable[[], bytes]) -> None:
        self._database = database
        self._make_secret = secret
        self._secret: bytes | None = None
        self.changed: Callable[[int], None] = lambda number: None

    def digest(self, key: str) -> bytes:
        if self._secret is None:
            self._secret = self._make_secret()
        return digest_of(key, self._secret)

    async def create(self, terms: KeyTerms) -> tuple[StoredKey, str]:
        """The new key as it is stored, and the key itself, which cannot be read again."""
        key, id = new_key(), secrets.token_hex(ID_BYTES)
        values = {**_columns(terms, id), **self._columns_of(key)}
        return await self._changed(lambda keys: keys.insert(values)), key

    async def rotate(self, id: str) -> tuple[StoredKey, str]:
        """A new key on the old terms; the old one is void at once. Raises NotFound, also for a revoked one."""
        key = new_key()
        return await self._update(id, {**self._columns_of(key), "rotated_at": time.time()}), key

    async def revoke(self, id: str) -> StoredKey:
        """Raises NotFound for an id of no live key."""
        return await self._update(id, {"revoked_at": time.time()})

    async def all(self) -> list[StoredKey]:
        """The oldest first, the revoked ones among them."""
        rows = await self._database.read(_on_keys(lambda keys: keys.all()))
        return [_stored(row) for row in rows]

    async def find(self, key: str) -> tuple[StoredKey | None, KeysState]:
        """The live key, if this is one; and the state of all of them at that moment."""
        digest = self.digest(key)
        row, state = await self._database.read(_on_keys(lambda keys: keys.find(digest, time.time())))
        found = row is not None and hmac.compare_digest(row["digest"], digest)
        return (_stored(row) if row is not None and found else None), KeysState(*state)

    async def is_void(self, id: str) -> bool:
        """Whether the key with this id was revoked or has expired; False where no key ever had it."""
        return await self._database.read(_on_keys(lambda keys: keys.is_void(id, time.time())))

    async def state(self) -> KeysState:
        return KeysState(*await self._database.read(_on_keys(lambda keys: keys.state())))

    def _columns_of(self, key: str) -> dict[str, Any]:
        return {"digest": self.digest(key), "prefix": shown_prefix(key)}

    async def _update(self, id: str, values: dict[str, Any]) -> StoredKey:
        return await self._changed(lambda keys: keys.update(id, values))

    async def _changed(self, work: KeyWork[tuple[Row | None, int]]) -> StoredKey:
        row, number = await self._database.write(_on_keys(work))
        if row is None:
            raise NotFound("No live key has this id", field="id")
        self.changed(number)
        return _stored(row)


def _on_keys(work: KeyWork[T]) -> Work[T]:
    return with_statements(lambda on: work(on.keys))


def _columns(terms: KeyTerms, id: str) -> dict[str, Any]:
    now = time.time()
    budget = parse_budget(terms.budget_usd) if terms.budget_usd else None
    return {
        "id": id,
        "name": terms.name,
        "tenant": terms.tenant or f"key:{id}",
        "models": json.dumps(terms.models),
        "routes": json.dumps(terms.routes),
        "networks": json.dumps(terms.ip),
        "admin": terms.admin,
        "requests_per_minute": terms.rpm,
        "tokens_per_minute": terms.tpm,
        "budget_usd": budget.usd if budget else None,
        "budget_period": budget.period if budget else None,
        "semantic_cache": terms.semantic_cache,
        "created_at": now,
        "expires_at": parse_expiry(terms.expires, now) if terms.expires else None,
    }


def _stored(row: Row) -> StoredKey:
    caller = Caller(
        tenant=row["tenant"],
        key_id=row["id"],
        name=row["name"],
        models=tuple(json.loads(row["models"])),
        routes=tuple(json.loads(row["routes"])),
        admin=row["admin"],
        requests_per_minute=row["requests_per_minute"],
        tokens_per_minute=row["tokens_per_minute"],
        budget=None if row["budget_usd"] is None else Budget(row["budget_usd"], row["budget_period"]),
        semantic_cache=row["semantic_cache"],
    )
    times = {name: row[name] for name in ("created_at", "rotated_at", "expires_at", "revoked_at")}
    networks = tuple(ip_network(network) for network in json.loads(row["networks"]))
    return StoredKey(row["id"], row["prefix"], caller, networks, **times)


EVERY = 0.5
TRUSTED_SECONDS = 2.0
FIRST_SECONDS = 0.9
LOOKS = 20
MOST_KEYS = 10_000

log = logging.getLogger(__name__)


class KeyRing:
    """``state`` and ``known`` cost microseconds; `find` asks the database."""

    def __init__(
        self,
        store: KeyStore,
        most: int = MOST_KEYS,
        clock: Callable[[], float] = time.monotonic,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        self.store = store
        self._first_seconds = first_seconds
        self._most = most
        self._clock = clock
        # by a digest that lives and dies with this process, since the store's takes six times as long
        self._known: dict[bytes, StoredKey] = {}
        self._finding: dict[bytes, asyncio.Task[StoredKey | None]] = {}
        self._pepper = secrets.token_bytes(32)
        self._state = KeysState(-1, exist=True)
        self._trusted_until = float("-inf")
        self._first = asyncio.Event()
        # where no key is ever asked for (AUTH=off), the first look is the last
        self._used = asyncio.Event()
        self._failing = False
        self._watching: asyncio.Task[None] | None = None
        store.changed = self._changed

    async def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    async def ready(self, within: float) -> bool:
        """Wait until it has asked for the first time; whether it was in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._first.wait()
        return self._first.is_set()

    @property
    def is_trusted(self) -> bool:
        return self._clock() < self._trusted_until

    async def is_void(self, id: str) -> bool:
        """As the store's, for who can wait: a database that does not answer is asked again until it does."""
        while True:
            try:
                return await self.store.is_void(id)
            except StoreUnavailable:
                await asyncio.sleep(EVERY)

    async def exist(self) -> bool:
        """Whether any key was ever made. Raises StoreUnavailable where that is not known."""
        await self._be_trusted()
        return self._state.exist

    def known(self, key: str) -> StoredKey | None:
        """The key where it is known to be good now; None says only that it has to be looked for."""
        self._used.set()
        if not self.is_trusted:
            return None
        found = self._known.get(self._digest(key))
        if found is not None and found.expires_at is not None and found.expires_at <= time.time():
            return None
        return found

    async def find(self, key: str) -> StoredKey | None:
        """The live key, if this is one. Raises StoreUnavailable."""
        await self._be_trusted()
        digest = self._digest(key)
        finding = self._finding.get(digest)
        if finding is None:
            # a hundred calls with one key that is not known yet are one question to the database
            finding = self._finding[digest] = asyncio.create_task(self._find(key, digest))
            finding.add_done_callback(partial(self._found, digest))
        return await asyncio.shield(finding)

    async def _find(self, key: str, digest: bytes) -> StoredKey | None:
        found, state = await self.store.find(key)
        self._learn(state)
        if found is not None and state == self._state:
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[digest] = found
        return found

    def _found(self, digest: bytes, finding: "asyncio.Task[StoredKey | None]") -> None:
        if self._finding.get(digest) is finding:
            del self._finding[digest]
        # where all that waited for it have left, nobody else takes its error
        if not finding.cancelled():
            finding.exception()

    def _digest(self, key: str) -> bytes:
        return blake2b(key.encode("utf-8", "surrogateescape"), key=self._pepper, digest_size=32).digest()

    async def _be_trusted(self) -> None:
        """At once where the database has not answered of late: the watch notices when it is back."""
        self._used.set()
        if self.is_trusted:
            return
        if not self._first.is_set():
            await self.ready(self._first_seconds)
        for _ in range(LOOKS):
            if self.is_trusted or self._failing:
                break
            # this process was held up, and the watch with it: its next look is soon
            await asyncio.sleep(FIRST_SECONDS / LOOKS)
        if not self.is_trusted:
            raise StoreUnavailable

    async def _watch(self) -> None:
        while True:
            try:
                await self._ask()
            except StoreUnavailable as error:  # the database says so itself, once
                self._failing = True
                log.debug("Keys could not be asked for: %s", error)
            except Exception:
                self._failing = True
                log.exception("Keys could not be asked for")
            else:
                self._failing = False
                if not self._used.is_set():
                    await self._used.wait()
                    continue
            await asyncio.sleep(EVERY)

    async def _ask(self) -> None:
        begun_at, before = self._clock(), self._state
        state = await self.store.state()
        if self._state is before and state != before:  # also where the number fell, as after a restored backup
            self._forget(state)
        self._trusted_until = begun_at + TRUSTED_SECONDS
        self._first.set()

    def _changed(self, number: int) -> None:
        """By this process, just now."""
        self._learn(KeysState(number, exist=True))

    def _learn(self, state: KeysState) -> None:
        """Forget everything where something has changed; what was asked earlier and came later changes nothing."""
        if state.number > self._state.number:
            self._forget(state)

    def _forget(self, state: KeysState) -> None:
        """What was asked before the change answers only those that asked before it."""
        self._known.clear()
        self._finding.clear()
        self._state = state
