"""One provider's wire, put together of several: each path of OpenAI's API may have a target of its own."""

from collections.abc import Mapping

from apps.core.errors import NotFound
from apps.models.gateway.wire import WireCall, WireReply, WireTarget


class ByPath:
    """Implements WireTarget. Paths that are not listed go to ``rest``; without it they are NotFound."""

    def __init__(self, targets: Mapping[str, WireTarget], rest: WireTarget | None = None) -> None:
        self._targets = dict(targets)
        self._rest = rest

    async def open(self, call: WireCall, model: str) -> WireReply:
        target = self._targets.get(call.path, self._rest)
        if target is None:
            raise NotFound(f"This model does not serve {call.path}", field="model")
        return await target.open(call, model)

    async def aclose(self) -> None:
        for target in [*self._targets.values(), *([self._rest] if self._rest else [])]:
            await target.aclose()
