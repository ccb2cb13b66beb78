"""The gateway in front of the local model: who waits for a slot is told so, and who finds no room in the queue too."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from apps.api.src.wiring.gateway import build_gateway
from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord
from apps.core.deltas import Delta
from apps.core.errors import Overloaded
from apps.core.messages import ChatRequest
from apps.core.settings import Settings
from apps.gateway.protocol import WireCall
from apps.models.scripted import ScriptedModel, Step

SECONDS = 0.05


def slowly(request: ChatRequest) -> Sequence[Step]:
    return [Delta("x", model="m"), SECONDS, Delta(finish_reason="stop", model="m")]


async def receipts(settings: Settings, calls: int) -> list[CallRecord | BaseException]:
    body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    gateway = build_gateway(settings, ScriptedModel(slowly))

    async def call() -> CallRecord:
        receipt = CallRecord(ANONYMOUS, "/v1/chat/completions", "scripted")
        opened = await gateway.open(WireCall("/chat/completions", json.dumps(body).encode(), body, True), receipt)
        assert opened.value.rest is not None
        async for _ in opened.value.rest:
            pass
        await opened.close()
        return receipt

    try:
        return await asyncio.gather(*(call() for _ in range(calls)), return_exceptions=True)
    finally:
        await gateway.aclose()


async def test_the_receipt_tells_how_long_a_call_waited_for_a_slot() -> None:
    told = await receipts(Settings(_env_file=None, local_slots=1, local_queue_size=3), 4)
    queued = sorted(receipt.queued for receipt in told if isinstance(receipt, CallRecord))
    assert [wait >= number * SECONDS * 0.9 for number, wait in enumerate(queued)] == [True] * 4


async def test_local_queue_size_bounds_the_queue() -> None:
    told = await receipts(Settings(_env_file=None, local_slots=2, local_queue_size=1), 5)
    refused = [error for error in told if isinstance(error, Overloaded)]
    assert len(refused) == 2 and "The local model is busy" in refused[0].message


@pytest.mark.parametrize(("line", "refusals"), [("max_concurrency: 1", 3), ("queue_size: 0", 3), ("queue_size: 9", 0)])
@pytest.mark.long
async def test_the_routing_file_may_allow_less_at_once_and_another_queue(
    tmp_path: Path, line: str, refusals: int
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"providers:\n  local: {{kind: local, {line}}}\n")
    settings = Settings(_env_file=None, gateway_config=str(file), local_slots=2, local_queue_size=1)
    told = await receipts(settings, 5)
    assert sum(isinstance(error, Overloaded) for error in told) == refusals
