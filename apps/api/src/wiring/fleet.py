"""A process that holds models for others (SERVE_ROLE=model), and one that has its models elsewhere (LOCAL_URL)."""

from collections.abc import Iterator

from apps.api.src.observability.tracing import Tracing
from apps.core.ports import ChatModel, Observation
from apps.core.settings import Settings
from apps.gateway.protocol import TraceHeaders
from apps.gateway.replicas.replica_set import ReplicaSet
from apps.gateway.replicas.table import ANY
from apps.gateway.replicas.target import ReplicaModel, ReplicaTarget
from apps.gateway.routing.config import ProviderConfig, TimeoutsConfig
from apps.local.model import LocalModel

SECRET_VARIABLE = "FLEET_SECRET"  # noqa: S105 - a name
# a queue and a long prompt may come before the first token; how long they may take is the replica's affair
PATIENT = TimeoutsConfig.model_construct(
    connect=2.0, first_token=600.0, silence=600.0, between_tokens=60.0, total=3600.0
)
# more than a gateway lets in, which may have written a call anew
LARGEST_BODY = 16 * 1024 * 1024


def remote_local(settings: Settings, trace: TraceHeaders | None = None) -> ReplicaModel:
    """The local model of the process at LOCAL_URL."""
    config = ProviderConfig.model_construct(
        kind="replicas", addresses=[settings.local_url], api_key_env=SECRET_VARIABLE, timeouts=PATIENT
    )
    replicas = ReplicaSet(config, settings.fleet_secret.get_secret_value(), trace)
    return ReplicaModel(ReplicaTarget(replicas), ANY, shown=settings.local_model)


def local_model(settings: Settings, tracing: Tracing | None = None) -> ChatModel:
    """The local model of this process, or of the one at LOCAL_URL."""
    if not settings.local_url:
        return LocalModel(settings)
    return remote_local(settings, tracing.headers if tracing is not None else None)


class InferenceMetrics:
    """Implements Observed: the local model's queue by the names that the Gateway API's inference extension reads."""

    def __init__(self, local: LocalModel) -> None:
        self._local = local

    def observations(self) -> Iterator[Observation]:
        queue = self._local.admission
        yield Observation("vllm:num_requests_waiting", "Calls that wait for a slot", float(queue.waiting))
        yield Observation("vllm:num_requests_running", "Calls that hold a slot", float(queue.running))
        # a slot holds the whole cache of one sequence
        used = queue.running / queue.slots
        yield Observation("vllm:kv_cache_usage_perc", "Share of the caches of keys and values that is in use", used)


def model_settings(settings: Settings) -> Settings:
    """The settings of a process that serves models alone: what gateways do is off."""
    return settings.model_copy(
        update={
            "gateway_config": None,
            "agents_config": None,
            "cache_storage": "",
            "rate_limit_enabled": False,
            "rate_limit_storage": "memory://",
            "max_connections_per_address": 0,
            "max_body_bytes": max(settings.max_body_bytes, LARGEST_BODY),
            "local_url": "",
        }
    )
