"""A key as those who manage keys see it: in JSON and in the command line's table. Never the key itself."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field

from apps.operations.key_store import StoredKey

Status = Literal["live", "expired", "revoked"]


class KeyView(BaseModel):
    """Times are ISO 8601, UTC."""

    id: str
    prefix: str = Field(description="The beginning of the key, to recognise it by")
    name: str
    tenant: str
    status: Status
    models: list[str]
    routes: list[str]
    admin: bool
    rpm: int | None
    tpm: int | None
    budget_usd: str | None
    ip: list[str]
    semantic_cache: float | None
    created_at: str
    rotated_at: str | None
    expires_at: str | None
    revoked_at: str | None


class NewKeyView(KeyView):
    """The one answer that holds the key."""

    key: str = Field(description="The key; it is shown this once")


def key_view(stored: StoredKey, now: float) -> KeyView:
    return KeyView.model_validate(_fields(stored, now))


def new_key_view(stored: StoredKey, key: str, now: float) -> NewKeyView:
    return NewKeyView.model_validate({**_fields(stored, now), "key": key})


def _fields(stored: StoredKey, now: float) -> dict[str, object]:
    caller = stored.caller
    return {
        "id": stored.id,
        "prefix": stored.prefix,
        "name": caller.name,
        "tenant": caller.tenant,
        "status": status_of(stored, now),
        "models": list(caller.models),
        "routes": list(caller.routes),
        "admin": caller.admin,
        "rpm": caller.requests_per_minute,
        "tpm": caller.tokens_per_minute,
        "budget_usd": f"{caller.budget.usd:g}/{caller.budget.period}" if caller.budget else None,
        "ip": [str(network) for network in stored.networks],
        "semantic_cache": caller.semantic_cache,
        "created_at": shown_time(stored.created_at),
        "rotated_at": shown_time(stored.rotated_at),
        "expires_at": shown_time(stored.expires_at),
        "revoked_at": shown_time(stored.revoked_at),
    }


def status_of(stored: StoredKey, now: float) -> Status:
    if stored.revoked_at is not None:
        return "revoked"
    return "expired" if stored.expires_at is not None and stored.expires_at <= now else "live"


def shown_time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
