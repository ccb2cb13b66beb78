"""Targets with their state: what the router chooses from and orders, and what an attempt runs on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from apps.core.calls import Boundary, Price
from apps.core.ports import AsksOthers, ChatModel
from apps.gateway.protocol import WireTarget
from apps.gateway.routing.breaker import Breaker
from apps.gateway.routing.config import ANY_MODEL, ProviderConfig, Strategy, TargetConfig
from apps.gateway.upstream.passage import Passage
from apps.models.admission import Admission

FREE = Price.model_construct(input=0.0, output=0.0)
SMOOTHING = 0.2
STALE_AFTER = 60.0


@dataclass(slots=True)
class Provider:
    """One provider at work: how to reach it, and how many calls it has under way."""

    name: str
    config: ProviderConfig
    wire: WireTarget
    chat: ChatModel
    admission: Admission
    writer: str = ""
    """The name that it asks by itself, where it has another model answer: that one's price is its own."""
    own_queue: bool = False
    """``admission`` is its model's, which takes the slot and notes the wait on the record."""
    passage: Passage | None = None
    """What takes the parts of its API that are passed on as they are, where it has such."""
    boundary: Boundary | None = None
    """How far away it is; None where it asks other models."""


@dataclass(slots=True)
class Target:
    """One model of one provider, and how it has fared."""

    provider: Provider
    config: TargetConfig
    breaker: Breaker
    busy: int = 0
    revision: str = ""
    """Of a name that is passed on, once it has been asked for."""
    _latency: float | None = None
    _measured_at: float = 0.0
    _rests_until: float = 0.0
    _name: str = ""

    @property
    def name(self) -> str:
        """The provider, and its own name for the model: one that begins with the kind of its provider, without that."""
        if not self._name and self.config.model:
            self._name = f"{self.provider.name}/{self.config.model.removeprefix(self.provider.config.prefix)}"
        # a local model's own name is known only once it has loaded
        return self._name or f"{self.provider.name}/{self.answers_as}"

    @property
    def answers_as(self) -> str:
        """The model that really answers: in this process it is known by itself only."""
        return self.provider.chat.readiness().name if self.provider.config.in_process else self.config.model

    @property
    def price(self) -> Price | None:
        """Per million tokens; a model of this process costs nothing unless the file says otherwise."""
        config = self.provider.config
        prices = self.config.price or config.prices.get(self.config.model) or config.prices.get(ANY_MODEL)
        if prices is None and config.prefix and isinstance(self.provider.chat, AsksOthers):
            rates = self.provider.chat.dearest(self.config.model)
            return None if rates is None else Price.model_construct(input=rates[0], output=rates[1])
        return prices or (FREE if config.ours else None)

    @property
    def latency(self) -> float | None:
        """Moving average of the seconds to the first token (to the whole answer, where it was not streamed).

        None where the last one is over a minute old: it may have changed, so it is worth another look.
        """
        return self._latency if time.monotonic() - self._measured_at < STALE_AFTER else None

    @property
    def wanted(self) -> bool:
        """Whether a call should rather go here than elsewhere: it is not broken, and has sent no Retry-After."""
        return self.breaker.allows() and time.monotonic() >= self._rests_until

    def rest(self, seconds: float) -> None:
        """It sent Retry-After; only a call without another target disturbs it."""
        self._rests_until = max(self._rests_until, time.monotonic() + seconds)

    def answered(self, seconds: float, *, streamed: bool) -> None:
        """Note a success; only a streamed call has a first token to be late with."""
        so_far = self.latency
        self._latency = seconds if so_far is None else so_far + SMOOTHING * (seconds - so_far)
        self._measured_at = time.monotonic()
        # of our own a late first token means a queue of our own, which says nothing of the model's health
        self.breaker.succeeded(seconds if streamed and not self.provider.config.ours else 0.0)


class Needs(NamedTuple):
    """What a call asks of a target; ``tokens`` is an estimate of prompt and answer together."""

    tools: bool = False
    images: bool = False
    tokens: int = 0


def ordered(targets: list[Target], strategy: Strategy, chance: Callable[[], float]) -> list[Target]:
    """By the strategy, best first; ``chance`` is a number from 0 to 1, drawn for each."""
    if strategy == "weighted":
        # Efraimidis and Spirakis (2006): keys u^(1/w), largest first, draw without replacement by weight
        return sorted(targets, key=lambda t: -(chance() ** (1 / t.config.weight)))
    if strategy == "least_busy":
        return sorted(targets, key=lambda t: t.busy / t.config.weight)
    if strategy == "lowest_latency":
        return sorted(targets, key=lambda t: t.latency or 0.0)
    if strategy == "cheapest":
        return sorted(targets, key=_price)
    return targets


def lacking(target: TargetConfig, needs: Needs) -> list[str]:
    """What the call needs and the target has not, in words."""
    lacks = []
    if needs.tools and not target.tools:
        lacks.append("tools")
    if needs.images and not target.images:
        lacks.append("images")
    if target.context is not None and needs.tokens > target.context:
        lacks.append("context length")
    return lacks


def unlisted(name: str, target: Target, own: bool) -> str:
    """Why a name that the file does not list leads to this target; ``own``: a model of this process is called so."""
    prefix = target.provider.config.prefix
    if own:
        return "answered in this process: it is a model's own name"
    if prefix and name.startswith(prefix):
        return f"answered in this process, as every name that begins with {prefix}"
    return "passed on to the default provider"


def described(target: Target) -> dict[str, Any]:
    """A target with what strategies look at."""
    return {
        "target": target.name,
        "boundary": target.provider.boundary,
        "breaker": target.breaker.state,
        "breaker_changes": [{"at": round(one.at, 3), "state": one.state} for one in target.breaker.changes],
        "busy": target.busy,
        "latency": None if target.latency is None else round(target.latency, 3),
        "weight": target.config.weight,
        "price": target.price.model_dump() if target.price else None,
    }


def _price(target: Target) -> float:
    return target.price.input + target.price.output if target.price else float("inf")
