"""The keys that this process has seen to be good, so that a request costs no query; for two seconds at most on trust.

Every half second it asks whether any key has changed, anywhere. While it cannot ask, what it knows runs out, and then
no caller is admitted or refused: the answer is that the database is not there.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b

from apps.core.errors import StoreUnavailable
from apps.operations.key_store import KeysState, KeyStore, StoredKey

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
        self._pepper = secrets.token_bytes(32)
        self._state = KeysState(-1, exist=True)
        self._trusted_until = float("-inf")
        self._first = asyncio.Event()
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

    async def exist(self) -> bool:
        """Whether any key was ever made. Raises StoreUnavailable where that is not known."""
        await self._be_trusted()
        return self._state.exist

    def known(self, key: str) -> StoredKey | None:
        """The key where it is known to be good now; None says only that it has to be looked for."""
        if not self.is_trusted:
            return None
        found = self._known.get(self._digest(key))
        if found is not None and found.expires_at is not None and found.expires_at <= time.time():
            return None
        return found

    async def find(self, key: str) -> StoredKey | None:
        """The live key, if this is one. Raises StoreUnavailable."""
        await self._be_trusted()
        found, state = await self.store.find(key)
        self._learn(state)
        if found is not None and state == self._state:
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[self._digest(key)] = found
        return found

    def _digest(self, key: str) -> bytes:
        return blake2b(key.encode("utf-8", "surrogateescape"), key=self._pepper, digest_size=32).digest()

    async def _be_trusted(self) -> None:
        """At once where the database has not answered of late: the watch notices when it is back."""
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
            await asyncio.sleep(EVERY)

    async def _ask(self) -> None:
        asked_at, before = self._clock(), self._state
        state = await self.store.state()
        if self._state is before and state != before:  # also where the number fell, as after a restored backup
            self._known.clear()
            self._state = state
        self._trusted_until = asked_at + TRUSTED_SECONDS
        self._first.set()

    def _changed(self, number: int) -> None:
        """By this process, just now."""
        self._learn(KeysState(number, exist=True))

    def _learn(self, state: KeysState) -> None:
        """Forget everything where something has changed; what was asked earlier and came later changes nothing."""
        if state.number > self._state.number:
            self._known.clear()
            self._state = state
