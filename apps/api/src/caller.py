"""Who made a request, as the layer in front of the routes has found out; and what he may ask for."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from apps.core.callers import ANONYMOUS, LOCAL, Caller
from apps.core.errors import Forbidden

SCOPE_KEY = "caller"


def caller_of(request: Request) -> Caller:
    """ANONYMOUS while keys are off."""
    return caller_in(request.scope)


def caller_in(scope: Mapping[str, Any]) -> Caller:
    caller: Caller = scope.get(SCOPE_KEY, ANONYMOUS)
    return caller


def may_use(caller: Caller, model: str, is_local: Callable[[str], bool]) -> bool:
    """``is_local`` is asked only where it matters."""
    return caller.may_use(model) or (LOCAL in caller.models and is_local(model))


def allow_model(caller: Caller, model: str, is_local: Callable[[str], bool] = lambda _: False) -> None:
    """Raise Forbidden where the caller's key is not for this model, whether or not there is such a model."""
    if not may_use(caller, model, is_local):
        raise Forbidden("This key may not use that model", field="model")
