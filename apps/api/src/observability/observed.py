"""What the models and the gateway tell of themselves: read from the live objects at a scrape, never kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import get_args

from apps.api.src.observability.call_metrics import KnownNames
from apps.core.ports import Observation, Readiness, State
from apps.gateway.gateway import Gateway

BREAKER = {"closed": 0, "half_open": 1, "open": 2}
LOCAL_NUMBERS = {
    "slots": ("genai_local_slots", "Answers that the local model writes at the same time"),
    "running": ("genai_local_slots_busy", "Answers that the local model is writing"),
    "waiting": ("genai_local_queue_length", "Calls that wait for the local model"),
    "queue_size": ("genai_local_queue_capacity", "Calls that may wait for the local model"),
    "predicted_wait": ("genai_local_predicted_wait_seconds", "What a call made now should wait for the local model"),
    "weights_bytes": ("genai_local_weights_bytes", "Memory of the local model's weights"),
    "context_length": ("genai_local_context_tokens", "Context of the local model"),
}


class ModelsObserved:
    """An Observed over the readiness of each model; ``roles`` are `cloud`, `local`, `embedder`."""

    def __init__(self, roles: Mapping[str, Callable[[], Readiness]]) -> None:
        self._roles = roles

    def observations(self) -> Iterable[Observation]:
        for role, readiness in self._roles.items():
            now = readiness()
            for state in get_args(State):
                labels = {"role": role, "state": state}
                yield Observation(
                    "genai_model_state", "1 for the state that a model is in", float(now.state == state), labels=labels
                )
            if role == "local":
                yield from _local_numbers(now)


def _local_numbers(readiness: Readiness) -> Iterator[Observation]:
    """What the engine does not tell has no metric."""
    for key, (name, text) in LOCAL_NUMBERS.items():
        value = readiness.details.get(key)
        if isinstance(value, int | float):
            yield Observation(name, text, float(value))


class GatewayObserved:
    """An Observed over providers, breakers and retry budgets of the routing file that is in force."""

    def __init__(self, gateway: Gateway, models: KnownNames) -> None:
        self._gateway = gateway
        self._models = models

    def observations(self) -> Iterable[Observation]:
        yield from self._providers()
        yield from self._breakers()
        yield from self._budgets()

    def _providers(self) -> Iterator[Observation]:
        for name, provider in self._gateway.router.providers.items():
            labels, admission = {"provider": name}, provider.admission
            slots, busy, waiting = float(admission.slots), float(admission.running), float(admission.waiting)
            yield Observation("genai_provider_slots", "Calls a provider may have under way", slots, labels=labels)
            yield Observation("genai_provider_slots_busy", "Calls a provider has under way", busy, labels=labels)
            yield Observation("genai_provider_queue_length", "Calls that wait for a provider", waiting, labels=labels)
            yield Observation(
                "genai_provider_predicted_wait_seconds",
                "What a call made now should wait for a provider",
                admission.predicted_wait(),
                labels=labels,
            )

    def _breakers(self) -> Iterator[Observation]:
        """Names that callers made up share one label: the worst of their states counts."""
        worst: dict[tuple[str, str], int] = {}
        for target in self._gateway.router.everywhere():
            key = (target.provider.name, self._models.label(target.answers_as))
            worst[key] = max(worst.get(key, 0), BREAKER[target.breaker.state])
        for (provider, model), state in worst.items():
            labels = {"provider": provider, "model": model}
            text = "Breaker of a target: 0 closed, 1 half open, 2 open"
            yield Observation("genai_breaker_state", text, float(state), labels=labels)

    def _budgets(self) -> Iterator[Observation]:
        least: dict[str, float] = {}
        for name, budget in self._gateway.budgets.each():
            label = self._models.label(name)
            least[label] = min(least.get(label, float("inf")), budget.left())
        for model, left in least.items():
            text = "Extra attempts that a model name may make within the minute"
            yield Observation("genai_retry_budget_left", text, left, labels={"model": model})
