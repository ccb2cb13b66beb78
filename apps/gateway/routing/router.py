"""Routing: a name and what a call needs, in; the targets that may answer it, best first, out. Spends nothing."""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apps.core.calls import Price
from apps.core.errors import InvalidValue, NotFound, quoted
from apps.core.messages import ChatRequest
from apps.core.ports import digest_of, revision_of
from apps.gateway.routing.breaker import Breaker
from apps.gateway.routing.config import PREFIXED, Family, GatewayConfig, TargetConfig
from apps.gateway.routing.targets import Needs, Provider, Target, described, lacking, ordered, unlisted

__all__ = ["Needs", "Router"]

MOST_PASSED_ON = 1024
OWN_SECONDS = 0.1


class Router:
    """One checked routing file at work. A reload makes a new one."""

    def __init__(
        self, config: GatewayConfig, providers: Mapping[str, Provider], chance: Callable[[], float] = random.random
    ) -> None:
        self.providers = dict(providers)
        self._chance = chance
        self._models = config.models
        self._passage = config.passage
        self._default = self.providers[config.default_provider] if config.default_provider else None
        # names that the file does not list: each is a target with a breaker of its own, so many at a time
        self._passed: OrderedDict[tuple[str, str], Target] = OrderedDict()
        # what was decided of such names
        self._taken: dict[str, Target] = {}
        # a local model answers to its own name, which is known only once it has loaded
        self._own_names = [
            self._target(TargetConfig.model_construct(provider=name, model=""))
            for name, provider in self.providers.items()
            if provider.config.in_process and not provider.config.prefix
        ]
        self._prefixed = [provider for provider in self.providers.values() if provider.config.prefix]
        self._targets = {
            name: [self._target(target) for target in model.targets] for name, model in config.models.items()
        }
        self._revisions: dict[str, str] = {}
        # asked several times a call, and the models of this process change their names once, when they have loaded
        self._own: dict[str, Target] = {}
        self._own_until = 0.0
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """A call begins that may use any of the providers; `leave` must follow."""
        self._calls += 1

    def leave(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            self._idle.set()

    async def leave_later(self) -> None:
        """`leave`, for a list of things to await."""
        self.leave()

    async def idle(self) -> None:
        """Wait until no call uses the providers."""
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def aclose(self) -> None:
        """Close the connections; the local model is closed by its owner."""
        for provider in self.providers.values():
            await provider.wire.aclose()
            if provider.passage is not None:
                await provider.passage.aclose()

    def names(self) -> list[str]:
        """The names of the file; a default provider takes others too."""
        return list(self._models)

    def targets(self, name: str) -> list[Target]:
        return self._targets[name]

    def own(self) -> dict[str, Target]:
        """The models of this process, by the names that they answer to as of now."""
        now = time.monotonic()
        if now >= self._own_until:
            self._own = {target.provider.chat.readiness().name: target for target in self._own_names}
            self._own_until = now + OWN_SECONDS
        return self._own

    def everywhere(self) -> Iterator[Target]:
        """Every target that there is now, those of names that are passed on too."""
        for targets in self._targets.values():
            yield from targets
        yield from self._own_names
        yield from self._passed.values()

    def models(self) -> set[str]:
        """The names that mean something here: those of the file, of its targets, and of this process's models."""
        named = {target.config.model for targets in self._targets.values() for target in targets}
        return {*self._models, *named, *self.own()}

    def is_local(self, name: str) -> bool:
        """Whether the local model alone would answer to this name, and no upstream."""
        if name in self._models:
            return all(target.provider.config.kind == "local" for target in self._reachable(name))
        own = self.own().get(name)
        return own is not None and own.provider.config.kind == "local"

    @property
    def default(self) -> Provider | None:
        """Who takes the names that are not listed."""
        return self._default

    def takes(self, prefix: str) -> bool:
        """Whether a provider of this process answers to the names that begin so."""
        return any(provider.config.prefix == prefix for provider in self._prefixed)

    def passage(self, family: Family) -> tuple[Provider, bool]:
        """Who takes a part of OpenAI's API, and whether the file names him for it. Raises NotFound without one."""
        named = self._passage.get(family) or self._passage.get("*")
        provider = self.providers[named] if named else self._default
        if provider is None or provider.passage is None:
            raise NotFound(
                f"No upstream takes /v1/{family}: name a provider for it under `passage` in the routing file"
                " (GATEWAY_CONFIG), or give one as default_provider",
                details={"passage": family},
            )
        return provider, bool(named)

    def candidates(self, name: str, needs: Needs) -> list[Target]:
        """Targets that can, best first: by the name's strategy, then by its fallbacks; broken ones last.

        Raises NotFound for an unknown name and InvalidValue where no target can do what the call needs.
        """
        if name not in self._models:
            return [self._passed_on(name)]
        everyone = list(self._reachable(name))
        able = [target for target in everyone if not lacking(target.config, needs)]
        if not able:
            lacks = sorted({lack for target in everyone for lack in lacking(target.config, needs)})
            raise InvalidValue(
                f"No target of {name} can do this: {', '.join(lacks)}", field="model", details={"lacking": lacks}
            )
        return sorted(able, key=lambda target: not target.wanted) if len(able) > 1 else able

    def upstream(self, name: str) -> Target:
        """The default provider's target for a name that others may have too. Raises NotFound without one."""
        if self._default is None:
            raise NotFound(f"No model is named {quoted(name)}", field="model", details={"available": self.names()})
        return self._target_of(self._default, name)

    def dearest(self, name: str, needs: Needs) -> Price | None:
        """The most that a call may cost at the targets that may answer it; None where one's price is not known.

        Raises as `candidates` does.
        """
        prices = [price for target in self.candidates(name, needs) for price in self._prices(target, needs)]
        known = [price for price in prices if price is not None]
        if len(known) < len(prices):
            return None
        most = Price.model_construct
        return most(input=max(price.input for price in known), output=max(price.output for price in known))

    def _prices(self, target: Target, needs: Needs) -> list[Price | None]:
        writer = target.provider.writer
        return [other.price for other in self.candidates(writer, needs)] if writer else [target.price]

    def explain(self, name: str, needs: Needs) -> dict[str, Any]:
        """The decision, in the words of the file, with what it was based on."""
        candidates = self.candidates(name, needs)
        listed = name in self._models
        everyone = list(self._reachable(name)) if listed else candidates
        left_out = [target for target in everyone if target not in candidates]
        return {
            "model": name,
            "strategy": self._models[name].strategy if listed else unlisted(name, candidates[0], name in self.own()),
            "order": [described(target) for target in candidates],
            "left_out": [{**described(t), "lacking": lacking(t.config, needs)} for t in left_out],
        }

    def revision(self, name: str) -> str | None:
        """What the file says of a name and of its targets; None where it has none, or none yet."""
        targets = self._everyone(name)
        if targets and name not in self._models and not targets[0].provider.config.in_process:
            return _revision_of(targets[0])
        if name in self._models and name not in self._revisions:
            members = [repr(self._models[other]) for other in self._names_behind(name)]
            self._revisions[name] = digest_of(*members, *(repr(target.provider.config) for target in targets))
        words: list[object] = [self._revisions.get(name, name)]
        for target in targets:
            chat = target.provider.chat
            if not target.provider.config.in_process:
                words.append("")
                continue
            own = revision_of(chat, ChatRequest(()))
            if own is None and target.provider.config.prefix:
                return None  # what documents say changes, and nothing here knows when
            own = own or chat.readiness().state
            if own == "loading":
                return None
            words.append(own)
        return digest_of(*words) if targets else None

    def upstream_revision(self, name: str) -> str | None:
        """The revision of the default provider's target for a name; None without such a provider."""
        return None if self._default is None else _revision_of(self.upstream(name))

    def is_greedy(self, name: str) -> bool:
        """Whether the target of this name samples at temperature 0 where the request gives none."""
        targets = self._everyone(name)
        return bool(targets) and all(target.provider.config.kind in ("local", "replicas") for target in targets)

    def _everyone(self, name: str) -> list[Target]:
        """All who may answer to a name, in no order of preference."""
        if name in self._models:
            return [target for other in self._names_behind(name) for target in self._targets[other]]
        try:
            return [self._passed_on(name)]
        except NotFound:
            return []

    def _reachable(self, name: str) -> Iterator[Target]:
        """The targets of a name, then those of its fallbacks in their order, each once."""
        seen: set[int] = set()
        for current in self._names_behind(name):
            for target in ordered(self._targets[current], self._models[current].strategy, self._chance):
                if id(target) not in seen:
                    seen.add(id(target))
                    yield target

    def _names_behind(self, name: str) -> Iterator[str]:
        """The name and its fallbacks, theirs too, each once."""
        names, queue = {name}, [name]
        for current in queue:
            yield current
            fallbacks = self._models[current].fallbacks
            queue += [other for other in fallbacks if other not in names]
            names.update(fallbacks)

    def _passed_on(self, name: str) -> Target:
        own = self.own().get(name)
        if own is not None:
            return own
        target = self._taken.get(name)
        if target is not None:
            return target
        provider = next(
            (provider for provider in self._prefixed if name.startswith(provider.config.prefix)), self._default
        )
        kind = name.partition("/")[0]
        if kind in PREFIXED and (provider is None or provider.config.kind != kind) and kind != name:
            # what is meant for this process must not go to strangers
            message = f"The routing file has no provider of the kind {kind}, which answers to {kind}/..."
            raise NotFound(message, field="model", details={"available": self.names()})
        if provider is None:
            raise NotFound(f"No model is named {quoted(name)}", field="model", details={"available": self.names()})
        target = self._taken[name] = self._target_of(provider, name)
        return target

    def _target_of(self, provider: Provider, name: str) -> Target:
        """The target of a name that is passed on to this provider."""
        key = provider.name, name
        target = self._passed.get(key)
        if target is None:
            target = self._passed[key] = self._target(TargetConfig.model_construct(provider=provider.name, model=name))
            if len(self._passed) > MOST_PASSED_ON:
                self._passed.popitem(last=False)
                self._taken.clear()
        return target

    def _target(self, config: TargetConfig) -> Target:
        provider = self.providers[config.provider]
        return Target(provider, config, Breaker(slow_after=provider.config.slow_after))


def _revision_of(passed_on: Target) -> str:
    """Its name and its provider's configuration, which stay as they are as long as the router lives."""
    if not passed_on.revision:
        passed_on.revision = digest_of(passed_on.config.model, repr(passed_on.provider.config))
    return passed_on.revision
