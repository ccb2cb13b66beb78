"""Models by the names that agents use: the local one under its alias, all others through the gateway, tried once."""

import pytest

from apps.core.deltas import Answer, collect
from apps.core.errors import InternalError, UpstreamUnavailable
from apps.core.messages import ChatRequest, user_message
from apps.gateway.gateway import Gateway, GatewayModel
from apps.gateway.openai_api.chat_completions import LocalWire
from apps.gateway.routing.attempts import Attempts
from apps.gateway.routing.config import GatewayConfig, ProviderConfig, TargetConfig
from apps.gateway.routing.config import ModelConfig as Named
from apps.gateway.routing.router import Router
from apps.gateway.routing.targets import Provider
from apps.models.admission import Admission
from apps.models.scripted import ScriptedModel, Step, saying


def models(cloud: ScriptedModel, *names: str) -> GatewayModel:
    local = ScriptedModel(saying("here"), name="tiny")
    config = ProviderConfig(base_url="http://x")
    providers = {
        "local": Provider("local", ProviderConfig(kind="local"), LocalWire(local), local, Admission(4, 4, 1)),
        "cloud": Provider("cloud", config, LocalWire(cloud), cloud, Admission(4, 4, 1)),
    }
    target = TargetConfig(provider="cloud", model="big")
    file = GatewayConfig(
        providers={"local": ProviderConfig(kind="local"), "cloud": config},
        models={name: Named(targets=[target]) for name in names},
        default_provider="cloud",
    )
    gateway = Gateway(Attempts(most=2, backoff=0))
    gateway.load(lambda: Router(file, providers))
    return GatewayModel(gateway, "default", local)


async def asked(named: GatewayModel, model: str | None) -> Answer:
    return await collect(named.stream(ChatRequest(user_message("hi"), model=model)))


@pytest.mark.parametrize(("name", "text"), [("local", "here"), ("tiny", "here"), ("any", "there"), (None, "there")])
async def test_names_lead_where_callers_expect(name: str | None, text: str) -> None:
    assert (await asked(models(ScriptedModel(saying("there"))), name)).text == text


async def test_a_routing_file_may_give_the_alias_away() -> None:
    assert (await asked(models(ScriptedModel(saying("there")), "local"), "local")).text == "there"


async def test_what_was_tried_here_is_not_tried_again_above() -> None:
    def failing(request: ChatRequest) -> list[Step]:
        return [UpstreamUnavailable("down")]

    cloud = ScriptedModel(failing)
    with pytest.raises(InternalError) as raised:
        await asked(models(cloud), "any")
    assert type(raised.value) is InternalError
    assert not raised.value.retryable
    assert len(cloud.requests) == 2
