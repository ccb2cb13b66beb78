"""Who made a request, as the layer in front of the routes has found out; and what he may ask for.

What a request presents to prove who sends it: `Authorization: Bearer` or `X-API-Key`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from apps.core.callers import ANONYMOUS, LOCAL, Caller
from apps.core.errors import Forbidden

SCOPE_KEY = "caller"
SHOWN_CHARACTERS = 100


def caller_of(request: Request) -> Caller:
    """ANONYMOUS while keys are off."""
    return caller_in(request.scope)


def caller_in(scope: Mapping[str, Any]) -> Caller:
    caller: Caller = scope.get(SCOPE_KEY, ANONYMOUS)
    return caller


def may_use(caller: Caller, model: str, is_local: Callable[[str], bool]) -> bool:
    """``is_local`` is asked only where it matters."""
    return caller.may_use(model) or (LOCAL in caller.models and is_local(model))


def allow_model(
    caller: Caller,
    model: str,
    is_local: Callable[[str], bool] = lambda _: False,
    words: str = "This key may not use that model",
) -> None:
    """Raise Forbidden where the caller's key is not for this model, whether or not there is such a model.

    ``words`` are for a model that the caller has not named himself.
    """
    if not may_use(caller, model, is_local):
        raise Forbidden(words, field="model", details={"model": model[:SHOWN_CHARACTERS]})


def allow_named(caller: Caller, named: str | None, default: str, is_local: Callable[[str], bool]) -> None:
    """`allow_model` where ``default`` answers a call that names none."""
    if named is not None:
        allow_model(caller, named, is_local)
        return
    words = f"No model is named, so {default} would answer, and this key is not for it: name another one in `model`"
    allow_model(caller, default, is_local, words)


def allow_local(caller: Caller, name: str) -> None:
    """`allow_model` where only the local model answers, whatever the call names."""
    words = f"Only the local model, {name}, answers here, and this key is not for it: ask /generate or /v1 for others"
    allow_model(caller, name, lambda _: True, words)


def allow_addressed(caller: Caller, model: str) -> None:
    """`allow_model` for what the path names: a collection or an agent, by its name among the models."""
    allow_model(caller, model, words=f"This key is not for {model[:SHOWN_CHARACTERS]}: its models do not include it")


BEARER = b"bearer "
LONGEST = 16_384


def presented(scope: Scope) -> str | None:
    """The credential; None where there is none. Where there are several, an empty text, which no key matches."""
    found: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == BEARER:
            value = value[7:]
        elif name != b"x-api-key":
            continue
        value = value.strip()
        if found is not None and found != value:
            return ""
        found = value
    if found is None:
        return None
    return found.decode("latin-1") if len(found) <= LONGEST else ""
