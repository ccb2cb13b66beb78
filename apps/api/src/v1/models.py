"""The list of models: OpenAI's shape, and beside it whether each can answer now, and who would."""

import time
from collections.abc import Iterable, Sequence

from pydantic import Field

from apps.core.errors import NotFound, quoted
from apps.core.fields import Schema
from apps.core.ports import State
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import Target

# the best first: a name is as ready as its readiest target
ORDER: tuple[State, ...] = ("ready", "unknown", "loading", "failed", "not_configured")


class TargetStatus(Schema):
    """One of a name's targets, in the order of the routing file."""

    target: str = Field(description="The provider, and its own name for the model", examples=["openai/gpt-4o-mini"])
    status: State
    reason: str
    breaker: str = Field(description="closed; open after too many failures; half_open while it is probed")


class Model(Schema):
    """A name that calls may use as their `model`."""

    id: str
    object: str = "model"
    created: int = Field(description="Unix time of this server's start: nobody else's is known")
    owned_by: str = Field(description="The provider of the first target")
    max_model_len: int | None = Field(
        description="Most tokens of prompt and answer, at the target that has the fewest; null: not known"
    )
    dimensions: int | None = Field(None, description="Of an embedding model's vectors, where they are known")
    status: State
    reason: str
    targets: list[TargetStatus]


class ModelList(Schema):
    object: str = "list"
    data: list[Model]


class ModelDirectory:
    """Lists the names of a router: those of the routing file, those of the models of this process, the default's."""

    def __init__(self, default_model: str) -> None:
        self._default_model = default_model
        self._created = int(time.time())

    def all(self, router: Router, more: Iterable[str] = ()) -> ModelList:
        """``more`` are names that the caller may use and others may not."""
        return ModelList(data=[self._model(name, targets) for name, targets in self.names(router, more).items()])

    def one(self, router: Router, name: str, more: Iterable[str] = ()) -> Model:
        """Raises NotFound for a name that is not listed, also where a default provider would take it."""
        names = self.names(router, more)
        if name not in names:
            others = f"; calls with it are handed to {router.default.name}" if router.default else ""
            raise NotFound(
                f"No model is listed as {quoted(name)}{others}",
                field="model",
                details={"available": list(names)},
            )
        return self._model(name, names[name])

    def names(self, router: Router, more: Iterable[str]) -> dict[str, Sequence[Target]]:
        """The targets of each name."""
        names: dict[str, Sequence[Target]] = {name: router.targets(name) for name in router.names()}
        for name, target in router.own().items():
            names.setdefault(name, [target])
        if router.default is not None and self._default_model not in names:
            names[self._default_model] = router.candidates(self._default_model, Needs())
        for name in more:
            names.setdefault(name, router.candidates(name, Needs()))
        return names

    def _model(self, name: str, targets: Sequence[Target]) -> Model:
        statuses = [_status(target) for target in targets]
        lengths = [length for target in targets if (length := _length(target)) is not None]
        best = min(statuses, key=lambda status: ORDER.index(status.status))
        return Model(
            id=name,
            created=self._created,
            owned_by=targets[0].provider.name,
            max_model_len=min(lengths, default=None),
            dimensions=_dimensions(targets),
            status=best.status,
            reason=best.reason,
            targets=statuses,
        )


def _length(target: Target) -> int | None:
    """What a call may be long: of a model of this process by itself, of any other by the routing file."""
    details = target.provider.chat.readiness().details
    told = details.get("context_length", details.get("longest_input"))
    known = [length for length in (told, target.config.context) if isinstance(length, int)]
    return min(known, default=None)


def _dimensions(targets: Sequence[Target]) -> int | None:
    told = targets[0].provider.chat.readiness().details.get("dimensions")
    return told if isinstance(told, int) else None


def _status(target: Target) -> TargetStatus:
    readiness, breaker = target.provider.chat.readiness(), target.breaker.state
    state, reason = readiness.state, readiness.reason
    if state in ("ready", "unknown") and breaker == "open":
        state, reason = "failed", "It failed too often and is left alone for a while"
    return TargetStatus(target=target.name, status=state, reason=reason, breaker=breaker)
