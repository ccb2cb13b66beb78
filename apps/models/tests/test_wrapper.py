"""A wrapper that overrides nothing changes nothing."""

from apps.core.deltas import collect
from apps.core.messages import ChatRequest, user_message
from apps.core.ports import WrapperModel
from apps.models.scripted import ScriptedModel, saying


async def test_everything_is_handed_on() -> None:
    inner = ScriptedModel(saying("a"), name="n", state="loading")
    model = WrapperModel(inner)
    await model.start()
    answer = await collect(model.stream(ChatRequest(user_message("hi"))))
    await model.aclose()
    assert (answer.text, model.readiness()) == ("a", inner.readiness())
