"""The gateway in front of the local model: who waits for a slot is told so, and who finds no room in the queue too."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apps.api.src.wiring.gateway import build_gateway
from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord
from apps.core.deltas import Delta, collect
from apps.core.errors import Overloaded
from apps.core.messages import ChatRequest, user_message
from apps.core.settings import Settings
from apps.gateway.gateway import Gateway
from apps.gateway.protocol import WireCall
from apps.gateway.routing.router import Needs
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoLoader
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


async def loaded(settings: Settings) -> LocalModel:
    model = LocalModel(settings, EchoLoader(EchoEngine(delay=0.005)))
    await model.start()
    assert (await model.settled()).state == "ready"
    return model


async def whole(gateway: Gateway, model: LocalModel, **more: Any) -> CallRecord:
    body = {"model": model.name, "messages": [{"role": "user", "content": "hello"}], **more}
    record = CallRecord(ANONYMOUS, "/v1/chat/completions", model.name)
    call = WireCall("/chat/completions", json.dumps(body).encode(), body, False, record=record)
    opened = await gateway.open(call, record)
    assert b"hello" in opened.value.body
    return record


async def test_calls_of_the_gateway_and_of_the_model_itself_stand_in_one_queue() -> None:
    settings = Settings(_env_file=None, local_slots=1, local_queue_size=2)
    model = await loaded(settings)
    gateway = build_gateway(settings, model)
    stream = model.stream(ChatRequest(user_message("hello"), max_tokens=20))
    # the first delta is there: the slot is taken
    assert (await anext(stream)).text == "h"
    calls = [asyncio.create_task(whole(gateway, model)) for _ in range(3)]
    async with asyncio.timeout(60):
        assert (await collect(stream)).text == "ello"
        told = await asyncio.gather(*calls, return_exceptions=True)
    queued = sorted(record.queued for record in told if isinstance(record, CallRecord))
    assert len(queued) == 2 and 0 < queued[0] < queued[1]
    assert [type(error) for error in told if not isinstance(error, CallRecord)] == [Overloaded]
    provider = gateway.router.providers["local"]
    assert provider.admission is model.admission and (model.admission.running, model.admission.waiting) == (0, 0)
    await gateway.aclose()
    await model.aclose()


async def test_the_wait_is_no_part_of_the_targets_latency() -> None:
    settings = Settings(_env_file=None, local_slots=1)
    model = await loaded(settings)
    gateway = build_gateway(settings, model)
    records = await asyncio.gather(*(whole(gateway, model) for _ in range(4)))
    target = gateway.router.candidates(model.name, Needs())[0]
    assert target.busy == 0 and target.latency is not None
    assert target.latency < max(record.queued for record in records)
    await gateway.aclose()
    await model.aclose()


async def test_a_call_that_was_let_in_gets_all_its_choices() -> None:
    settings = Settings(_env_file=None, local_slots=1, local_queue_size=0)
    model = await loaded(settings)
    gateway = build_gateway(settings, model)
    async with asyncio.timeout(60):
        told = await asyncio.gather(whole(gateway, model, n=4), whole(gateway, model), return_exceptions=True)
    assert [type(one) for one in told] == [CallRecord, Overloaded]
    await gateway.aclose()
    await model.aclose()


@pytest.mark.parametrize(
    ("lines", "bounds"),
    [
        ("{kind: local}", (4, 7, 9.0)),
        ("{kind: local, max_concurrency: 2, queue_size: 3, queue_timeout: 5}", (2, 3, 5.0)),
        ("{kind: local, max_concurrency: 99}", (4, 7, 9.0)),
    ],
)
async def test_the_routing_file_bounds_the_models_own_queue(
    tmp_path: Path, lines: str, bounds: tuple[int, int, float]
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"providers:\n  local: {lines}\n")
    settings = Settings(
        _env_file=None, gateway_config=str(file), local_slots=4, local_queue_size=7, local_queue_timeout=9
    )
    model = LocalModel(settings, EchoLoader(EchoEngine()))
    gateway = build_gateway(settings, model)
    admission = model.admission
    assert (admission.slots, admission.queue_size, admission.queue_timeout) == bounds
    file.write_text("providers:\n  local: {kind: local, queue_size: 1}\n  other: {kind: local, queue_size: 2}\n")
    gateway.reload()
    assert (admission.slots, admission.queue_size, admission.queue_timeout) == (4, 1, 9.0)
    await gateway.aclose()
    await model.aclose()
