"""Keys, managed over HTTP by the holder of an admin key; the first one is made on the command line (cli.py)."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import Field

from apps.api.src.auth.authentication import caller_of
from apps.api.src.http.openapi import BODY_ERRORS, Responses, error_responses
from apps.api.src.http.request import JsonRoute
from apps.api.src.wiring.services import Services
from apps.core.callers import ANONYMOUS
from apps.core.errors import Forbidden, InvalidValue, NotFound, Overloaded
from apps.core.fields import Schema
from apps.operations.key_store import KeyStore, StoredKey
from apps.operations.key_terms import KeyTerms

Status = Literal["live", "expired", "revoked"]


class KeyView(Schema):
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


class ListedKeyView(KeyView):
    """A key with the standing of its budget in the current period."""

    budget_limit_usd: float | None = Field(description="null without a budget")
    budget_left_usd: float | None = Field(description="What calls under way have reserved is not left")


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
        "created_at": iso_time(stored.created_at),
        "rotated_at": iso_time(stored.rotated_at),
        "expires_at": iso_time(stored.expires_at),
        "revoked_at": iso_time(stored.revoked_at),
    }


def status_of(stored: StoredKey, now: float) -> Status:
    if stored.revoked_at is not None:
        return "revoked"
    return "expired" if stored.expires_at is not None and stored.expires_at <= now else "live"


def iso_time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


KEY: dict[str, Any] = {
    "id": "3f9a1c20b7d4e658",
    "prefix": "ga_x7Kq...",
    "name": "ci",
    "tenant": "key:3f9a1c20b7d4e658",
    "status": "live",
    "models": ["local", "gpt-4o*"],
    "routes": ["/v1/*"],
    "admin": False,
    "rpm": 60,
    "tpm": 100000,
    "budget_usd": "5/month",
    "ip": ["10.0.0.0/8"],
    "semantic_cache": None,
    "created_at": "2026-11-25T09:00:00+00:00",
    "rotated_at": None,
    "expires_at": "2027-02-23T09:00:00+00:00",
    "revoked_at": None,
}
LISTED_KEY = {**KEY, "budget_limit_usd": 5.0, "budget_left_usd": 3.75}
NEW_KEY = {**KEY, "key": "ga_x7Kq0123456789abcdefghijklmnopqrstuvwxyz-_A"}
Id = Annotated[str, Path(description="The id of the key, not the key", max_length=64, examples=[KEY["id"]])]


class KeyList(Schema):
    """The oldest first; the revoked and expired ones too."""

    data: list[ListedKeyView]


def admin_only(request: Request) -> None:
    """The second door: the layer in front of the routes lets through admins only, and without one no keys are made."""
    caller = caller_of(request)
    if caller is ANONYMOUS or not caller.admin:
        raise Forbidden("This needs an admin key; the first one is made with the keys command of apps.cli.main")


def admin_key_router(services: Services) -> APIRouter:
    router = APIRouter(prefix="/admin/keys", route_class=JsonRoute, tags=["keys"], dependencies=[Depends(admin_only)])

    @router.post("", status_code=201, responses=_answers(201, NEW_KEY, *BODY_ERRORS))
    async def create_key(terms: KeyTerms, response: Response) -> NewKeyView:
        """Make a key. It is in this answer and nowhere else: what is kept cannot be turned back into it."""
        response.headers["Cache-Control"] = "no-store"
        return new_key_view(*await _store(services).create(terms), time.time())

    @router.get("", responses=_answers(200, {"data": [LISTED_KEY]}))
    async def list_keys() -> KeyList:
        """All keys, the oldest first."""
        now = time.time()
        return KeyList(data=[await _listed(services, key, now) for key in await _store(services).all()])

    @router.post("/{id}/rotate", responses=_answers(200, NEW_KEY, NotFound, InvalidValue))
    async def rotate_key(id: Id, response: Response) -> NewKeyView:
        """A new key on the same terms; the old one is void at once."""
        response.headers["Cache-Control"] = "no-store"
        return new_key_view(*await _store(services).rotate(id), time.time())

    @router.delete("/{id}", responses=_answers(200, KEY, NotFound, InvalidValue))
    async def revoke_key(id: Id) -> KeyView:
        """Revoke a key: at once in this process, within two seconds in every other."""
        return key_view(await _store(services).revoke(id), time.time())

    return router


async def _listed(services: Services, stored: StoredKey, now: float) -> ListedKeyView:
    """Raises StoreUnavailable."""
    limit = left = None
    if (budget := stored.caller.budget) is not None and services.accounts is not None and services.accounts.budgets:
        spent, reserved = await services.accounts.budgets.standing(stored.caller)
        limit, left = budget.usd, max(0.0, budget.usd - spent - reserved)
    return ListedKeyView.model_validate({**_fields(stored, now), "budget_limit_usd": limit, "budget_left_usd": left})


def _store(services: Services) -> KeyStore:
    if services.keys is None:
        raise Forbidden("This service keeps no keys")
    return services.keys.store


def _answers(status: int, example: Any, *kinds: Any) -> Responses:
    answer = {"content": {"application/json": {"example": example}}}
    return {status: answer, **error_responses(*kinds, Forbidden, Overloaded)}
