"""One replica over HTTP: an upstream whose words are our own, so that its errors stay what they are."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from apps.core.errors import AppError, UpstreamError, told_error
from apps.gateway.protocol import WireCall, WireReply
from apps.gateway.upstream.access import beginning, patience_for_words
from apps.gateway.upstream.http_target import HttpTarget
from apps.models.upstream_errors import parse_retry_after, status_error

if TYPE_CHECKING:
    from apps.transport.response import Response

# what the gateway says of a call beside its body; a replica believes it of those who know the fleet's secret
TENANT, FITS = "X-Fleet-Tenant", "X-Fleet-Fits"
MILLISECONDS = 1000


class ReplicaWire(HttpTarget):
    """Sends the tenant along, whose computed prompts the replica may use; notes what it tells of the call."""

    def _more_headers(self, call: WireCall) -> Mapping[str, str] | None:
        more = {**(super()._more_headers(call) or {}), TENANT: quote(call.caller.tenant, safe="")}
        return {**more, FITS: "1"} if call.fits else more

    async def _said(self, response: "Response", call: WireCall, model: str, until: float) -> bytes:
        return await beginning(response, min(until, patience_for_words(self._provider)))

    def _refusal(self, response: "Response", said: bytes) -> AppError:
        if response.status == 401:
            return UpstreamError("The replica does not know the fleet's secret", upstream_status=401)
        told = told_error(_error_in(said), parse_retry_after(response.headers))
        return told if told is not None else status_error(response.status, response.headers)

    async def _reply(
        self, call: WireCall, response: "Response", begins: float, ends: float, *, hidden: bool
    ) -> WireReply:
        reply = await super()._reply(call, response, begins, ends, hidden=hidden)
        if call.record is not None:
            call.record.model = response.header(b"x-model") or call.record.model
            queued = response.header(b"x-queue-ms") or ""
            call.record.queued += float(queued) / MILLISECONDS if queued.replace(".", "", 1).isdigit() else 0.0
        return reply


def _error_in(said: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}
