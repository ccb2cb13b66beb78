"""The models that write for others: who is meant, how much fits, and that nothing is tried twice."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from apps.core.callers import ANONYMOUS
from apps.core.calls import CallRecord, Usage
from apps.core.deltas import Delta, collect
from apps.core.errors import (
    AppError,
    InternalError,
    InvalidValue,
    NotFound,
    Timeout,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from apps.core.messages import ChatRequest, Message, user_message
from apps.core.ports import ChatModel, WrapperModel
from apps.gateway.gateway import Gateway, GatewayModel
from apps.gateway.openai_api.chat_completions import LocalWire
from apps.gateway.protocol import WireCall
from apps.gateway.routing.attempts import Attempts
from apps.gateway.routing.config import GatewayConfig, ModelConfig, ProviderConfig, TargetConfig
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import Provider
from apps.models.admission import Admission
from apps.models.scripted import ScriptedModel, Step, saying

USER = user_message("What?")


def record() -> CallRecord:
    return CallRecord(ANONYMOUS, "/v1/chat/completions", "rag/a")


class Asks(WrapperModel):
    """Has its writer answer, whatever itself was asked as."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return self.inner.stream(replace(request, model=None))

    def revision(self, request: ChatRequest) -> None:
        """What documents say changes."""


def provider(name: str, kind: str, chat: ChatModel, writer: str = "") -> Provider:
    prices = {"s": {"input": 2, "output": 4}} if kind == "openai" else {}
    config = ProviderConfig.model_validate(
        {"kind": kind, "base_url": "http://x" if kind == "openai" else "", "prices": prices}
    )
    return Provider(name, config, LocalWire(chat), chat, Admission(4, 4, 1), writer)


def writers(local: ScriptedModel, cloud: ScriptedModel, default: str = "") -> GatewayModel:
    return gateway_and_writer(local, cloud, default)[1]


def gateway_and_writer(local: ScriptedModel, cloud: ScriptedModel, default: str = "") -> tuple[Gateway, GatewayModel]:
    gateway = Gateway(Attempts(most=3, backoff=0))
    made = GatewayModel(gateway, default, local, 8192)
    providers = {
        "local": provider("local", "local", local),
        "cloud": provider("cloud", "openai", cloud),
        "rag": provider("rag", "rag", Asks(made), default),
    }
    models = {
        "small": ModelConfig(targets=[TargetConfig(provider="cloud", model="s", context=4000)]),
        "either": ModelConfig(
            targets=[
                TargetConfig(provider="cloud", model="a", context=9000),
                TargetConfig(provider="cloud", model="b", context=5000),
            ]
        ),
        "hidden": ModelConfig(targets=[TargetConfig(provider="rag", model="rag/handbook")]),
    }
    config = GatewayConfig(
        providers={name: one.config for name, one in providers.items()}, models=models, default_provider="cloud"
    )
    gateway.load(lambda: Router(config, providers))
    return gateway, made


@pytest.fixture
def local() -> ScriptedModel:
    return ScriptedModel(saying("local"), name="local")


@pytest.fixture
def cloud() -> ScriptedModel:
    return ScriptedModel(saying("cloud"), name="cloud")


@pytest.mark.parametrize(
    ("default", "asked", "who"),
    [("", None, "local"), ("small", None, "cloud"), ("", "small", "cloud"), ("", "x", "cloud")],
)
async def test_the_name_says_who_writes(
    default: str, asked: str | None, who: str, local: ScriptedModel, cloud: ScriptedModel
) -> None:
    answer = await collect(writers(local, cloud, default).stream(ChatRequest(USER, model=asked)))
    assert answer.text == who


@pytest.mark.parametrize(
    ("asked", "tokens"), [("small", 4000), ("either", 5000), ("other", 8192), ("local", 8192), (None, 8192)]
)
async def test_the_window_is_the_smallest_of_whoever_may_answer(
    asked: str | None, tokens: int, local: ScriptedModel, cloud: ScriptedModel
) -> None:
    window = await writers(local, cloud).window(ChatRequest(USER, model=asked))
    assert window.tokens == tokens


async def test_an_unknown_tokenizer_is_taken_to_need_a_token_a_byte(local: ScriptedModel, cloud: ScriptedModel) -> None:
    window = await writers(local, cloud).window(ChatRequest(USER, model="small"))
    few, many = [await window.count([Message("user", text)]) for text in ("aaaa", "ä€😀")]
    assert few >= 4
    assert many - few == 9 - 4


@pytest.mark.parametrize("name", ["rag/handbook", "hidden"])
async def test_a_collection_cannot_write(name: str, local: ScriptedModel, cloud: ScriptedModel) -> None:
    asked, made = ChatRequest(USER, model=name), writers(local, cloud)
    with pytest.raises(InvalidValue):
        await made.window(asked)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UpstreamUnavailable("down"), InternalError), (UpstreamTimeout("late"), Timeout), (NotFound("no"), NotFound)],
)
async def test_what_was_tried_here_is_not_to_be_tried_above(error: AppError, kind: type[AppError]) -> None:
    def failing(request: ChatRequest) -> list[Step]:
        return [type(error)(error.message)]

    cloud = ScriptedModel(failing, name="cloud")
    with pytest.raises(kind) as caught:
        await collect(writers(ScriptedModel(saying("x")), cloud).stream(ChatRequest(USER, model="small")))
    assert not caught.value.retryable
    assert caught.value.message == error.message
    assert len(cloud.requests) == (3 if error.retryable else 1)


async def test_an_upstream_that_fails_is_tried_as_often_as_anybodys_and_no_more_beneath_a_collection() -> None:
    calls = 0

    def failing(request: ChatRequest) -> list[Step]:
        nonlocal calls
        calls += 1
        return [UpstreamUnavailable("down")]

    made = writers(ScriptedModel(saying("x")), ScriptedModel(failing, name="cloud"), "small")
    config, asks = ProviderConfig(kind="rag"), Asks(made)
    above = Provider("rag", config, LocalWire(asks, asks_others=True), asks, Admission(4, 4, 1))
    file = GatewayConfig(providers={"rag": config})
    gateway = Gateway(Attempts(most=3, backoff=0))
    gateway.load(lambda: Router(file, {"rag": above}))
    body = {"model": "rag/a", "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(InternalError) as caught:
        await gateway.open(WireCall("/chat/completions", b"{}", body, stream=False), record())
    assert calls == 3
    assert caught.value.details["attempts"] == 3


async def test_it_is_as_ready_as_the_one_who_writes_by_default(local: ScriptedModel) -> None:
    loading = ScriptedModel(saying("x"), name="cloud", state="loading")
    assert writers(local, loading).readiness().state == "ready"
    assert writers(local, loading, "small").readiness().state == "loading"


def test_a_collection_may_cost_what_its_writer_may_cost(local: ScriptedModel, cloud: ScriptedModel) -> None:
    for default, price in (("", 0.0), ("small", 2.0), ("nobody-knows", None)):
        gateway = gateway_and_writer(local, cloud, default)[0]
        for name in ("rag/handbook", "rag/shared/handbook", "hidden"):
            found = gateway.dearest(name, Needs())
            assert (None if found is None else found.input) == price


def test_an_answer_from_documents_has_no_revision_to_be_cached_by(local: ScriptedModel, cloud: ScriptedModel) -> None:
    gateway = gateway_and_writer(local, cloud)[0]
    assert gateway.router.revision("rag/handbook") is None
    assert gateway.router.revision("hidden") is None
    assert gateway.router.revision("small") is not None


async def test_usage_and_cost_of_the_writer_are_known_above() -> None:
    def priced(request: ChatRequest) -> list[Step]:
        return [Delta("x", model="w"), Delta(finish_reason="stop", usage=Usage(10, 2, cost=0.5), model="w")]

    wire = LocalWire(ScriptedModel(priced), asks_others=True)
    body = {"model": "rag/a", "messages": [{"role": "user", "content": "x"}], "n": 2}
    made = record()
    await wire.open(WireCall("/chat/completions", b"{}", body, stream=False, record=made), "rag/a")
    assert (made.model, made.cost) == ("w", 1.0)
