"""Targets with their state: what the router chooses from and what an attempt runs on."""

from dataclasses import dataclass

from apps.core.ports import ChatModel
from apps.models.admission import Admission
from apps.models.gateway.breaker import Breaker
from apps.models.gateway.config import Price, ProviderConfig, TargetConfig
from apps.models.gateway.wire import WireTarget

SMOOTHING = 0.2


@dataclass(slots=True)
class Provider:
    """One provider at work: how to reach it, and how many calls it has under way."""

    name: str
    config: ProviderConfig
    wire: WireTarget
    chat: ChatModel
    admission: Admission


@dataclass(slots=True)
class Target:
    """One model of one provider, and how it has fared: ``latency`` is a moving average to the first token, seconds."""

    provider: Provider
    config: TargetConfig
    breaker: Breaker
    busy: int = 0
    latency: float | None = None

    @property
    def name(self) -> str:
        return f"{self.provider.name}/{self.config.model}"

    @property
    def price(self) -> Price | None:
        return self.config.price or self.provider.config.prices.get(self.config.model)

    def answered(self, first_token: float | None) -> None:
        """Note a success; ``first_token`` seconds where the call was streamed, so that there was one to time."""
        if first_token is None:
            self.breaker.succeeded(0.0)
            return
        so_far = first_token if self.latency is None else self.latency
        self.latency = so_far + SMOOTHING * (first_token - so_far)
        self.breaker.succeeded(first_token)
