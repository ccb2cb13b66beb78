"""Targets in order: what a call needs of one, how a strategy ranks them, and how both are told. Keeps nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

from apps.gateway.routing.config import Strategy, TargetConfig
from apps.gateway.routing.targets import Target


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
        "breaker": target.breaker.state,
        "breaker_changes": [{"at": round(one.at, 3), "state": one.state} for one in target.breaker.changes],
        "busy": target.busy,
        "latency": None if target.latency is None else round(target.latency, 3),
        "weight": target.config.weight,
        "price": target.price.model_dump() if target.price else None,
    }


def _price(target: Target) -> float:
    return target.price.input + target.price.output if target.price else float("inf")
