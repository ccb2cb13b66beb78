"""The record of a call for a model, the usage that its answer reports, its cost, and the ports of bookkeepers."""

import random
import time
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field

from apps.core.callers import Caller

CacheUse = Literal["off", "miss", "hit", "semantic", "replay"]
Boundary = Literal["machine", "network", "outside"]
"""How far a call's text goes: not beyond this machine, not beyond private addresses, or further."""
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)
DISCONNECTED, CANCELLED, SHUT_DOWN = "CLIENT_GONE", "CANCELLED", "SHUT_DOWN"
# outcomes of calls that were ended from outside before their answers were whole: an upstream may well send its bill
CUT_OFF = frozenset({DISCONNECTED, CANCELLED, SHUT_DOWN})
# calls that are answered in these ways reuse an answer that another call has paid for
REUSED = frozenset({"hit", "semantic", "replay"})


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, and what making it costs in US dollars where a price is known.

    ``cached_tokens`` of the prompt's are not computed again; ``reasoning_tokens`` of the completion's are what the
    model thought with. ``estimated``: the model reports no tokens, so the prompt's length and the pieces of the answer
    stand for them.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cost: float | None = None
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True)
class CallRecord:
    """One call of the API for a model. It travels with the call and is filled in on the way.

    Times in seconds, money in US dollars; None is not known. A new fact of a call is one field here.
    """

    caller: Caller
    route: str
    """The route's template, never a raw path."""
    requested_model: str
    """The model that the caller names: free text, so it goes into the ledger and never into a metric's label."""
    streamed: bool = False
    estimated_tokens: int = 0
    """The most tokens that the call is expected to use, known before it is made."""
    estimated_cost: float | None = 0.0
    """The most that the call is expected to cost, where its caller has a budget; None: a price is not known."""
    id: str = field(default_factory=lambda: f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}")
    """Begins with the time, so that the ledger's rows are added at the end of its index."""
    begun_at: float = field(default_factory=time.time)
    model: str = ""
    """The model that answers."""
    provider: str = ""
    outcome: str = "ok"
    """``ok``, a code of the error tree, or what ended it before its end: CLIENT_GONE (the caller left), CANCELLED (by
    the caller's word) or SHUT_DOWN (with the service)."""
    cache: CacheUse = "off"
    """``miss``: made for this call; ``hit`` or ``semantic``: from the response cache; ``replay``: recorded under the
    same Idempotency-Key; ``off``: the cache is not asked."""
    age: float | None = None
    """Of an answer from the response cache."""
    score: float | None = None
    """The cosine of the two questions, of a semantic hit."""
    attempts: int = 0
    tried: list[str] = field(default_factory=list)
    """The targets of all attempts, in their order."""
    boundary: Boundary | None = None
    """The furthest of all attempts; None before the first one, and where one of them asks models that are not known."""
    queued: float = 0.0
    """For a place at a model; 0 where none has let it in."""
    latency: float | None = None
    """From the request to the target that answers until its first token; of a stream only."""
    first_token: float | None = None
    """From the beginning of the call to its first token."""
    duration: float = 0.0
    usage: Usage | None = None
    spent: float | None = None
    """What the parts of the call cost together, where it ends before its usage does; counts instead of that."""

    def attempt(self, target: str, boundary: Boundary | None) -> None:
        """Note another attempt, on ``target``, whose provider is as far away as ``boundary``."""
        self.attempts += 1
        if self.attempts == 1:
            self.boundary = boundary
        elif self.boundary is not None:
            self.boundary = None if boundary is None else max(self.boundary, boundary, key=BOUNDARIES.index)
        self.model, self.usage = "", None
        self.tried.append(target)

    @property
    def cost(self) -> float | None:
        """What this call costs: nothing where it reuses an answer."""
        if self.cache in REUSED:
            return 0.0
        if self.spent is not None:
            return self.spent
        return None if self.usage is None else self.usage.cost

    @property
    def saved(self) -> float:
        """What a reused answer would cost, made anew."""
        usage = self.usage
        return usage.cost or 0.0 if usage is not None and self.cache in REUSED else 0.0

    @property
    def prompt_tokens(self) -> int | None:
        return None if self.usage is None else self.usage.prompt_tokens

    @property
    def completion_tokens(self) -> int | None:
        return None if self.usage is None else self.usage.completion_tokens

    @property
    def cached_tokens(self) -> int:
        return 0 if self.usage is None else self.usage.cached_tokens

    @property
    def estimated(self) -> bool:
        return self.usage is not None and self.usage.estimated

    def reuse(self, cache: CacheUse, age: float | None = None, score: float | None = None) -> None:
        """Note that this call is answered without being made."""
        self.cache, self.age, self.score = cache, age, score
        self.estimated_tokens, self.estimated_cost = 0, 0.0

    def answered_as(self, made: "Answered") -> None:
        """Note the answer that this call reuses: the model that made it, and its usage."""
        self.model, self.provider, self.usage = made.model, made.provider, made.usage


class Answered(Protocol):
    """An answer that was made: another call's record, or an entry of the response cache."""

    @property
    def model(self) -> str: ...

    @property
    def provider(self) -> str: ...

    @property
    def usage(self) -> Usage | None: ...


class Bookkeeper(Protocol):
    """Learns of every call: limits of tokens, budgets, the ledger, metrics."""

    async def opening(self, call: CallRecord) -> None:
        """Called before anything is spent; raises an error of the tree where the call must not be made."""

    def closing(self, call: CallRecord) -> None:
        """Called exactly once after every `opening` that did not raise; the record does not change any more.

        Must not raise, and cannot wait: a call may be ending because its task is being cancelled. What takes time is
        left to a task of the bookkeeper's own.
        """


class Account(Protocol):
    """The budget that pays for a call which spends bit by bit, as an agent's run does."""

    def spent(self, cost: float) -> None:
        """Add US dollars that a part of the call costs."""

    async def check(self) -> None:
        """Called before more is spent; raises an error of the tree where nothing is left."""


# The account of the call under way, set where the call is opened; None: no budget pays. It reaches every call that this
# one makes, whichever way.
ACCOUNT: ContextVar[Account | None] = ContextVar("account", default=None)


PER_MILLION = 1_000_000
# tokens of an answer whose request sets no limit
ASSUMED_ANSWER = 1_000


class Price(BaseModel):
    """US dollars for a million tokens."""

    # built when a file is read: building takes a tenth of a start
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)


def cost(price: Price, prompt_tokens: int, completion_tokens: int) -> float:
    """US dollars."""
    return (prompt_tokens * price.input + completion_tokens * price.output) / PER_MILLION


def priced(usage: Usage, price: Price | None) -> Usage:
    """The usage with its cost: the one that it reports itself, else by the price where that is known."""
    if usage.cost is not None or price is None:
        return usage
    return replace(usage, cost=cost(price, usage.prompt_tokens, usage.completion_tokens))
