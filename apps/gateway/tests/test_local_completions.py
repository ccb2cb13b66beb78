"""The legacy completions of a ChatModel: how a stream of them ends."""

import json
from collections.abc import Sequence

import pytest

from apps.core.deltas import Delta
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest
from apps.gateway.openai_api.chat_completions import DONE
from apps.gateway.openai_api.completions import LocalCompletions
from apps.gateway.protocol import WireCall, WireReply
from apps.models.scripted import ScriptedModel, Step, saying


async def streamed(model: ScriptedModel) -> WireReply:
    body = {"model": "local", "prompt": "hi", "stream": True}
    return await LocalCompletions(model).open(WireCall("/completions", json.dumps(body).encode(), body, True), "local")


@pytest.mark.parametrize("said", [["half"], ["half", " of it"]])
async def test_a_stream_without_a_finish_reason_is_an_error_and_never_done(said: list[str]) -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Delta(text, model="m") for text in said]

    model = ScriptedModel(script)
    reply = await streamed(model)
    assert reply.rest is not None
    sent = reply.body
    with pytest.raises(UpstreamError, match="cut off"):
        async for block in reply.rest:
            sent += block
    assert all(text.encode() in sent for text in said) and DONE not in sent
    assert model.open == 0


async def test_a_stream_with_a_finish_reason_is_done() -> None:
    reply = await streamed(ScriptedModel(saying("whole", finish_reason="length")))
    assert reply.rest is not None
    blocks = [reply.body, *[block async for block in reply.rest]]
    assert b'"finish_reason": "length"' in blocks[-1] and blocks[-1].endswith(DONE)
