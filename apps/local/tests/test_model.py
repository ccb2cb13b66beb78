import asyncio
import threading
from dataclasses import replace

import pytest

from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord
from apps.core.deltas import Answer, Delta, collect
from apps.core.errors import AppError, InternalError, InvalidValue, ModelUnavailable, Overloaded
from apps.core.messages import ChatRequest, Message, user_message
from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.engine.port import Sampling
from apps.local.loading import Loaded, LoadFailed, NotConfigured
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoLoader


async def ready(settings: Settings, engine: EchoEngine) -> LocalModel:
    model = LocalModel(settings, EchoLoader(engine))
    await model.start()
    assert (await model.settled()).state == "ready"
    return model


async def ask(model: LocalModel, prompt: str, max_tokens: int = 50) -> Answer:
    return await collect(model.stream(ChatRequest(user_message(prompt), max_tokens=max_tokens)))


class GatedLoader:
    """A load that takes as long as the test says."""

    def __init__(self, steps: int = 1) -> None:
        self.gate = threading.Event()
        self.engine = EchoEngine()
        self.ended = threading.Event()

    def __call__(self, settings: Settings, report: Report) -> Loaded:
        try:
            report("importing everything")
            self.gate.wait(100)
            return EchoLoader(self.engine)(settings, lambda *_: None)
        finally:
            self.ended.set()


async def test_start_returns_at_once_and_callers_are_told_to_come_back(settings: Settings) -> None:
    loader = GatedLoader()
    model = LocalModel(settings, loader)
    await model.start()
    await asyncio.sleep(0.05)
    readiness = model.readiness()
    assert (readiness.state, readiness.name) == ("loading", "TinyLlama/TinyLlama-1.1B-Chat-v1.0")
    assert "importing everything" in readiness.reason
    with pytest.raises(ModelUnavailable) as refused:
        await ask(model, "hi")
    assert refused.value.retry_after
    waiters = [asyncio.create_task(model.settled()) for _ in range(50)]
    await asyncio.sleep(0)
    loader.gate.set()
    assert {(await waiter).state for waiter in waiters} == {"ready"}
    assert (model.name, model.readiness().name) == ("echo", "echo")
    await model.aclose()


async def test_before_start_the_model_says_so(settings: Settings) -> None:
    model = LocalModel(settings, EchoLoader(EchoEngine()))
    assert model.readiness().reason == "Not started yet"
    with pytest.raises(ModelUnavailable):
        await ask(model, "hi")
    await model.aclose()


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NotConfigured("run pip install -r requirements-local.txt"), "not_configured"),
        (LoadFailed("run pip install -r requirements-local.txt"), "failed"),
        (MemoryError("run pip install -r requirements-local.txt"), "failed"),
    ],
)
async def test_a_load_that_ends_badly_is_a_state_with_its_reason(
    settings: Settings, error: Exception, state: str
) -> None:
    def load(settings: Settings, report: Report) -> Loaded:
        raise error

    model = LocalModel(settings, load)
    await model.start()
    readiness = await model.settled()
    assert readiness.state == state
    assert "pip install -r requirements-local.txt" in readiness.reason
    with pytest.raises(ModelUnavailable, match=r"pip install -r requirements-local\.txt") as refused:
        await ask(model, "hi")
    assert refused.value.retry_after and refused.value.details["state"] == state
    await model.aclose()


async def test_an_answer_streams_and_its_last_delta_has_reason_usage_and_name(settings: Settings) -> None:
    model = await ready(settings, EchoEngine())
    deltas = [delta async for delta in model.stream(ChatRequest(user_message("héllo"), max_tokens=20))]
    assert [delta.text for delta in deltas] == list("héllo")
    assert [delta.finish_reason for delta in deltas] == [None] * 4 + ["stop"]
    assert deltas[-1].model == "echo"
    usage = deltas[-1].usage
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (5, 5)
    await model.aclose()


async def test_a_call_that_is_required_is_one_where_the_prompt_has_opened_thoughts(settings: Settings) -> None:
    pytest.importorskip("llguidance", reason="llguidance comes with requirements-local.txt")
    written = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><think>'
    model = await ready(settings, EchoEngine(context_length=1000))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = ChatRequest(user_message(written), tools=(tool,), max_tokens=len(written))
    for tool_choice in ("required", "auto"):
        answer = await collect(model.stream(replace(request, tool_choice=tool_choice)))
        assert ([call.name for call in answer.tool_calls], answer.reasoning) == (["f"], "")
    thought = await collect(model.stream(ChatRequest(user_message("Hm.</think>Yes<think>"), max_tokens=30)))
    assert (thought.reasoning, thought.text) == ("Hm.", "Yes<think>")
    await model.aclose()


async def test_fields_left_out_take_the_contracts_defaults(settings: Settings) -> None:
    engine = EchoEngine(context_length=1000)
    model = await ready(settings, engine)
    await collect(model.stream(ChatRequest(user_message("x"))))
    await collect(model.stream(ChatRequest(user_message("x"), None, 0.5, 0.1, 7, ("a",), 3)))
    tenant = ANONYMOUS.tenant
    assert engine.samplings == [
        Sampling(0.0, 0.9, 500, tenant=tenant),
        Sampling(0.5, 0.1, 7, 3, ("a",), tenant=tenant),
    ]
    await model.aclose()


async def test_prompt_and_max_tokens_fill_the_context_exactly_and_not_one_token_more(settings: Settings) -> None:
    model = await ready(settings, EchoEngine(context_length=100))
    assert (await ask(model, "x" * 60, 40)).finish_reason == "length"
    with pytest.raises(InvalidValue) as refused:
        await ask(model, "x" * 60, 41)
    assert refused.value.field == "max_tokens"
    assert refused.value.details == {"prompt_tokens": 60, "max_tokens": 41, "context_length": 100}
    await model.aclose()


async def test_a_long_conversation_is_tokenized_beside_the_event_loop(settings: Settings) -> None:
    model = await ready(settings, EchoEngine(context_length=100_000))
    messages = (Message("user", "x" * 50_000), Message("user", [{"type": "text", "text": "y" * 10}]))
    answer = await collect(model.stream(ChatRequest(messages, max_tokens=3)))
    assert answer.usage is not None and answer.usage.prompt_tokens == 50_010
    await model.aclose()


async def test_parts_that_are_not_text_are_refused(settings: Settings) -> None:
    model = await ready(settings, EchoEngine())
    with pytest.raises(InvalidValue) as refused:
        await collect(model.stream(ChatRequest((Message("user", [{"type": "image_url"}]),))))
    assert refused.value.field == "messages"
    await model.aclose()


async def test_calls_beyond_slots_and_queue_are_turned_away_and_the_rest_is_served(settings: Settings) -> None:
    engine = EchoEngine(delay=0.01)
    model = await ready(settings.model_copy(update={"local_slots": 2, "local_queue_size": 3}), engine)
    results = await asyncio.gather(*(ask(model, "hello") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, Answer) for result in results) == 5
    assert sum(isinstance(result, Overloaded) for result in results) == 15
    assert engine.most_running == 2
    assert (model.admission.running, model.admission.waiting, engine.running) == (0, 0, 0)
    await model.aclose()


async def test_who_gets_no_slot_in_time_is_told_when_to_come_back(settings: Settings) -> None:
    engine = EchoEngine(delay=0.05)
    model = await ready(settings.model_copy(update={"local_slots": 1, "local_queue_timeout": 0.1}), engine)
    # a call was measured at a second and a quarter: that long the running one should take at most, in whole seconds 2
    await ask(model, "x" * 25)
    running = asyncio.create_task(ask(model, "y" * 25))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded, match=r"within 0\.1 seconds") as refused:
        await ask(model, "late")
    assert refused.value.retry_after == 2
    assert (await running).text == "y" * 25
    await model.aclose()


async def test_the_record_of_a_call_says_how_long_it_waited_for_its_slot(settings: Settings) -> None:
    model = await ready(settings.model_copy(update={"local_slots": 1}), EchoEngine(delay=0.02))
    records = [CallRecord(ANONYMOUS, "/local/generate", "") for _ in range(2)]
    asked = [ChatRequest(user_message("x" * 10), max_tokens=20, record=record) for record in records]
    await asyncio.gather(*(collect(model.stream(request)) for request in asked))
    assert records[0].queued < 0.1 < records[1].queued
    await model.aclose()


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_caller_that_leaves_frees_its_slot(settings: Settings, how: str) -> None:
    engine = EchoEngine(delay=0.005)
    model = await ready(settings.model_copy(update={"local_slots": 1}), engine)
    for _ in range(10):
        stream = model.stream(ChatRequest(user_message("hello"), max_tokens=20))
        await anext(stream)
        if how == "close":
            await stream.aclose()
        else:
            task = asyncio.create_task(collect(stream))
            await asyncio.sleep(0.003)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await stream.aclose()
        assert (model.admission.running, engine.running) == (0, 0)
    await model.aclose()


async def test_an_engine_that_breaks_is_an_error_of_the_tree_and_frees_its_slot(settings: Settings) -> None:
    model = await ready(settings, EchoEngine(failing_after=3))
    deltas: list[Delta] = []
    with pytest.raises(AppError) as failed:
        async for delta in model.stream(ChatRequest(user_message("hello"), max_tokens=20)):
            deltas.append(delta)
    assert isinstance(failed.value, InternalError)
    assert "the engine broke" not in failed.value.message
    assert [delta.finish_reason for delta in deltas] == [None, None]
    assert model.admission.running == 0
    await model.aclose()


async def test_an_engine_that_fails_for_good_makes_the_model_failed_with_its_reason(settings: Settings) -> None:
    engine = EchoEngine()
    model = await ready(settings, engine)
    engine.failure = "its inference thread ended"
    assert (model.readiness().state, model.readiness().reason) == ("failed", "its inference thread ended")
    with pytest.raises(ModelUnavailable, match=r"\(failed\): its inference thread ended") as refused:
        await ask(model, "hi")
    assert refused.value.details["state"] == "failed" and refused.value.retry_after
    await model.aclose()


async def test_closing_while_a_load_runs_returns_soon_and_the_late_engine_is_closed(settings: Settings) -> None:
    loader = GatedLoader()
    model = LocalModel(settings, loader)
    await model.start()
    await model.aclose()
    loader.gate.set()
    assert await asyncio.to_thread(loader.ended.wait, 5)
    for _ in range(100):
        if loader.engine.closed:
            break
        await asyncio.sleep(0.02)
    assert loader.engine.closed
    assert model.readiness().state == "failed"


async def test_a_load_ends_between_two_steps_once_the_model_is_closed(settings: Settings) -> None:
    steps, go_on = list[str](), threading.Event()

    def load(settings: Settings, report: Report) -> Loaded:
        report("one")
        steps.append("one")
        go_on.wait(5)
        report("two")
        steps.append("two")
        raise AssertionError("the load went on")

    model = LocalModel(settings, load)
    await model.start()
    closing = asyncio.create_task(model.aclose())
    await asyncio.sleep(0.05)
    go_on.set()
    await closing
    assert steps == ["one"]


async def test_how_many_bytes_are_loaded_is_told_until_the_model_is_there(settings: Settings) -> None:
    told = []

    def load(settings: Settings, report: Report) -> Loaded:
        for more in ((), (2.0, 30, 90)):
            report("loading", *more)
            told.append(model.readiness().details)
        return EchoLoader(EchoEngine())(settings, report)

    model = LocalModel(settings, load)
    await model.start()
    await model.settled()
    told.append(model.readiness().details)
    shares = [(one["seconds_left"], one["loaded_bytes"], one["total_bytes"]) for one in told]
    assert shares == [(None, None, None), (2.0, 30, 90), (None, None, None)]
    await model.aclose()


async def test_a_folders_path_does_not_become_the_models_name(settings: Settings) -> None:
    model = LocalModel(settings.model_copy(update={"local_model": "/srv/models/secret/my-llama"}))
    assert model.readiness().name == "my-llama"
    await model.aclose()
