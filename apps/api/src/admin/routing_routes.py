"""The routing file, checked before it is read again: the one at work, or one that is posted."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from apps.api.src.auth.caller import caller_of
from apps.api.src.http.json_body import JsonRoute
from apps.api.src.http.openapi import BODY_ERRORS, error_responses
from apps.core.errors import Forbidden, InvalidValue
from apps.core.fields import Schema
from apps.core.settings import Settings
from apps.gateway.routing.config import GatewayConfigError, gateway_config_of, load_gateway_config

LONGEST_FILE = 65_536
"""Characters: YAML is read by the letter."""
POSTED = Path("routing file")


class RoutingFile(BaseModel):
    """What to check; left out, the file of GATEWAY_CONFIG as it is on the disk now."""

    model_config = ConfigDict(strict=True, extra="ignore")

    yaml: str | None = Field(None, description="The text of a routing file", max_length=LONGEST_FILE)


class CheckedFile(Schema):
    """``faults`` never repeat a value of the file: it may be a secret."""

    ok: bool
    faults: list[str] = Field(description="One line each; empty where the file may be put in force")
    models: list[str] = Field(description="The names that calls could use")
    providers: list[str]


def admin_routing_router(settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/admin/routing", route_class=JsonRoute, tags=["operations"])

    @router.post("/check", responses=error_responses(*BODY_ERRORS))
    async def check(request: Request, file: RoutingFile) -> CheckedFile:
        """Say what is wrong with a routing file, whole, and change nothing."""
        if not caller_of(request).admin:
            raise Forbidden("This needs an admin key")
        # YAML of a stranger takes its time
        return await asyncio.to_thread(_checked, file.yaml, settings.gateway_config)

    return router


def _checked(text: str | None, own: Path | None) -> CheckedFile:
    if text is None and own is None:
        raise InvalidValue("There is no routing file here: GATEWAY_CONFIG names none", field="yaml")
    path = POSTED if own is None or text is not None else own
    try:
        config = load_gateway_config(path) if text is None else gateway_config_of(text, path)
    except GatewayConfigError as error:
        faults = [line.removeprefix(f"{path}: ") for line in str(error).splitlines()]
        return CheckedFile(ok=False, faults=faults, models=[], providers=[])
    return CheckedFile(ok=True, faults=[], models=list(config.models), providers=list(config.providers))
