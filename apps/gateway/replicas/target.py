"""A set of replicas as one target: a call goes to the replica of its key, and elsewhere while none has begun it."""

from collections.abc import AsyncIterator

from apps.core.capacity import Kind
from apps.core.errors import (
    AppError,
    InternalError,
    ModelUnavailable,
    NotFound,
    Overloaded,
    UpstreamTimeout,
    UpstreamUnavailable,
    quoted,
)
from apps.gateway.protocol import Blocks, WireCall, WireReply
from apps.gateway.replicas.affinity import affinity
from apps.gateway.replicas.replica_set import ReplicaSet
from apps.gateway.replicas.table import ANY, Replica
from apps.transport.response import ConnectionFailed

KINDS: dict[str, Kind] = {"/embeddings": "embedding", "/rerank": "rerank"}


class ReplicaTarget:
    """Implements WireTarget. The model ``local`` is whatever local model a replica has."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self.replicas = replicas

    async def open(self, call: WireCall, model: str) -> WireReply:
        """Raises the error of the last replica that was asked, and ModelUnavailable where there is none."""
        kind, key, table = KINDS.get(call.path, "chat"), affinity(call), self.replicas.table
        tried: set[str] = set()
        refused: AppError | None = None
        while (member := await self.replicas.choose(key, kind, model, tried)) is not None:
            replica, kept = member.replica, False
            if tried and call.record is not None:
                call.record.attempts += 1
            replica.in_flight += 1
            try:
                reply = await member.wire.open(call, model or ANY)
                if reply.rest is not None:
                    reply.rest, kept = _Counted(reply.rest, replica), True
                return reply
            except AppError as error:
                if isinstance(error.__cause__, ConnectionFailed):
                    table.missed(replica, "Nobody listens there", refused=True)
                if not (_may_go_elsewhere(error) or (isinstance(error, UpstreamTimeout) and table.is_out(replica))):
                    raise
                refused = _sooner(refused, error)
                tried.add(replica.address)
            finally:
                if not kept:
                    replica.in_flight -= 1
        raise refused or self._nobody(kind, model)

    async def aclose(self) -> None:
        await self.replicas.aclose()

    def _nobody(self, kind: Kind, model: str) -> AppError:
        table = self.replicas.table
        told = table.readiness(kind, model)
        ready = [replica for replica in table.replicas.values() if replica.standing in ("ready", "silent")]
        if ready and not any(replica.capacity_of(kind, model) for replica in ready):
            return NotFound(f"No replica has a model {quoted(model)}", field="model")
        return ModelUnavailable(
            f"No replica can answer now ({told.reason})", details={"state": told.state}, retry_after=told.retry_after
        )


class _Counted:
    """The rest of a stream; its replica has one call less when it ends."""

    __slots__ = ("_inner", "_replica")

    def __init__(self, inner: Blocks, replica: Replica) -> None:
        self._inner = inner
        self._replica: Replica | None = replica

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await self._inner.__anext__()

    async def aclose(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.in_flight -= 1
        await self._inner.aclose()


def _may_go_elsewhere(error: AppError) -> bool:
    """Whether another replica may do what this one could not: it failed, is full, or has no model now."""
    if isinstance(error, UpstreamTimeout):
        return False
    return isinstance(error, UpstreamUnavailable | Overloaded | ModelUnavailable | InternalError)


def _sooner(before: AppError | None, error: AppError) -> AppError:
    """Of two refusals, the one after which a call may soonest be made again."""
    if before is None or before.retry_after is None:
        return error
    return before if error.retry_after is not None and before.retry_after <= error.retry_after else error
