"""Callers: what a key may do, and which tenant's data it sees."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Period = Literal["day", "month"]
LOCAL = "local"
"""Among the models of a caller: the local model, whatever its name is. Never the name of another one."""
SHARED = "shared"
"""The tenant of what everybody may read; who may write it is the caller's matter. No key is of this tenant."""


@dataclass(frozen=True, slots=True)
class Budget:
    """US dollars that a key may spend in a calendar day or month, in UTC."""

    usd: float
    period: Period


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key, or of none.

    ``tenant`` owns what the caller stores and caches: callers of one tenant see each other's and no others.
    ``models`` and ``routes`` are patterns (``*`` and ``?``) of model names and of paths, and LOCAL may stand among the
    models; ``admin`` opens `/admin`.
    ``requests_per_minute`` and ``tokens_per_minute`` None mean no limit of the key's own. ``semantic_cache`` is the
    least cosine at which an answer to another wording may be given; None: never.
    """

    tenant: str
    key_id: str | None = None
    name: str = ""
    models: tuple[str, ...] = ("*",)
    routes: tuple[str, ...] = ("*",)
    admin: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budget: Budget | None = None
    semantic_cache: float | None = None

    def may_use(self, model: str) -> bool:
        """By the model's name; whether it is the local one is for others to know."""
        return any(fnmatchcase(model, pattern) for pattern in self.models if pattern != LOCAL)

    def may_call(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.routes)


ANONYMOUS = Caller(tenant="anonymous", admin=True)
"""Everybody, while keys are off: the service is its operator's own then."""
