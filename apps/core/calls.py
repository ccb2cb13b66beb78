"""What a call is on record for: who asked which model, what came of it and what it cost; and who keeps such records."""

import random
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

from apps.core.callers import Caller

CacheUse = Literal["off", "miss", "hit", "semantic", "replay"]
DISCONNECTED = "CLIENT_GONE"


@dataclass(slots=True)
class CallRecord:
    """One call of the API for a model, filled in while it runs. Times in seconds, money in US dollars.

    ``route`` is the route's template and never a raw path. ``outcome`` is ``ok``, a code of the error tree, or
    CLIENT_GONE where the caller left before the end. ``estimated_tokens`` and ``estimated_cost`` are the most that the
    call is expected to use, known before it is made (the cost only where the caller has a budget; None where a price is
    not known); ``saved`` is what a cached answer would have cost. Tokens and cost stay None where nobody told them;
    ``estimated``: nobody did, and they are counted by the prompt's length and the pieces of the answer.
    """

    caller: Caller
    route: str
    asked: str
    """The model that the caller named: his own text, so it goes into the ledger and never into a metric's label."""
    streamed: bool = False
    estimated_tokens: int = 0
    estimated_cost: float | None = 0.0
    id: str = field(default_factory=lambda: f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}")
    """Begins with the time, so that the ledger's rows are added at the end of its index."""
    begun_at: float = field(default_factory=time.time)
    model: str = ""
    provider: str = ""
    outcome: str = "ok"
    cache: CacheUse = "off"
    attempts: int = 0
    queued: float = 0.0
    first_token: float | None = None
    duration: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    estimated: bool = False
    cost: float | None = None
    saved: float = 0.0


class Bookkeeper(Protocol):
    """Wants to know of calls: limits of tokens, budgets, the ledger, metrics."""

    async def opening(self, call: CallRecord) -> None:
        """Before anything is spent; raises an error of the tree where the call must not be made."""

    def closing(self, call: CallRecord) -> None:
        """Exactly once after every `opening` that did not raise, whatever happened; the record stays as it is now.

        Must not raise, and cannot wait: a call may be ending because its task is being cancelled. What takes time is
        left to a task of the bookkeeper's own.
        """


class Account(Protocol):
    """The budget that pays for a call which spends bit by bit, as an agent's run does."""

    def spent(self, cost: float) -> None:
        """So many US dollars more, in whichever part of the call."""

    async def check(self) -> None:
        """Before more is spent; raises an error of the tree where nothing is left."""


# Of the call under way, set by whoever opens it; None: nobody's budget pays. It reaches what the call asks of others,
# whichever way it was made.
ACCOUNT: ContextVar[Account | None] = ContextVar("account", default=None)
