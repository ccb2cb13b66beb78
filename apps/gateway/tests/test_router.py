"""Routing: every strategy, what a call needs, names that lead elsewhere, and an explanation that spends nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from apps.core.errors import InvalidValue, NotFound
from apps.gateway.openai_api.chat_completions import LocalWire
from apps.gateway.routing.breaker import FEWEST_CALLS
from apps.gateway.routing.config import GatewayConfig
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import Provider, Target
from apps.models.admission import Admission
from apps.models.scripted import ScriptedModel, saying


def router(models: dict[str, Any], chance: Callable[[], float] | None = None, **more: Any) -> Router:
    providers: dict[str, Any] = {
        "p": {
            "base_url": "http://p",
            "prices": {"dear": {"input": 9, "output": 9}, "cheap": {"input": 1, "output": 1}},
        },
        "q": {"base_url": "http://q"},
        "here": {"kind": "local"},
        "docs": {"kind": "rag"},
        "agent": {"kind": "agent"},
    }
    config = GatewayConfig.model_validate({"providers": providers, "models": models, **more})
    chat = ScriptedModel(saying("x"), name="my-local-model")
    made = {
        name: Provider(name, provider, LocalWire(chat), chat, Admission(4, 4, 1))
        for name, provider in config.providers.items()
    }
    return Router(config, made, chance) if chance else Router(config, made)


def price(both: float) -> dict[str, float]:
    return {"input": both, "output": both}


def to(*names: str, **settings: Any) -> dict[str, Any]:
    return {"targets": [{"provider": "p", "model": name} for name in names], **settings}


def order(made: Router, name: str, needs: Needs | None = None) -> list[str]:
    return [target.config.model for target in made.candidates(name, needs or Needs())]


def break_(target: Target) -> None:
    for _ in range(FEWEST_CALLS):
        target.breaker.failed()


def test_ordered_is_the_order_of_the_file() -> None:
    made = router({"m": to("a", "b", "c")})
    assert [order(made, "m") for _ in range(5)] == [["a", "b", "c"]] * 5


def test_weighted_is_in_proportion() -> None:
    targets = [{"provider": "p", "model": "a", "weight": 3}, {"provider": "p", "model": "b", "weight": 1}]
    made = router({"m": {"strategy": "weighted", "targets": targets}})
    first = [order(made, "m")[0] for _ in range(4000)]
    assert 0.70 < first.count("a") / len(first) < 0.80


def test_least_busy_goes_where_there_is_room_for_its_weight() -> None:
    targets = [{"provider": "p", "model": "a", "weight": 4}, {"provider": "p", "model": "b", "weight": 1}]
    made = router({"m": {"strategy": "least_busy", "targets": targets}})
    a, b = made.targets("m")
    a.busy, b.busy = 3, 1
    assert order(made, "m") == ["a", "b"]
    a.busy = 5
    assert order(made, "m") == ["b", "a"]


def test_lowest_latency_tries_the_unknown_then_takes_the_fastest() -> None:
    made = router({"m": to("a", "b", "c", strategy="lowest_latency")})
    a, b, c = made.targets("m")
    a.answered(0.5, streamed=True)
    b.answered(0.1, streamed=False)
    assert order(made, "m") == ["c", "b", "a"]
    c.answered(0.3, streamed=True)
    assert order(made, "m") == ["b", "c", "a"]
    for _ in range(50):
        b.answered(5.0, streamed=False)
    assert order(made, "m") == ["c", "a", "b"]


def test_cheapest_goes_by_price_and_the_unpriced_come_last() -> None:
    made = router({"m": to("unpriced", "dear", "cheap", strategy="cheapest")})
    assert order(made, "m") == ["cheap", "dear", "unpriced"]


def test_a_targets_own_price_goes_before_its_providers() -> None:
    targets = [
        {"provider": "p", "model": "cheap"},
        {"provider": "p", "model": "dear", "price": {"input": 0, "output": 0}},
    ]
    assert order(router({"m": {"strategy": "cheapest", "targets": targets}}), "m") == ["dear", "cheap"]


ABLE = {
    "targets": [
        {"provider": "p", "model": "small", "context": 100, "tools": False, "images": False},
        {"provider": "p", "model": "seeing", "context": 1000, "tools": False},
        {"provider": "p", "model": "all"},
    ]
}


@pytest.mark.parametrize(
    ("needs", "able"),
    [
        (Needs(), ["small", "seeing", "all"]),
        (Needs(tokens=100), ["small", "seeing", "all"]),
        (Needs(tokens=101), ["seeing", "all"]),
        (Needs(images=True), ["seeing", "all"]),
        (Needs(tools=True), ["all"]),
        (Needs(tools=True, images=True, tokens=10**6), ["all"]),
    ],
)
def test_only_those_that_can_are_asked(needs: Needs, able: list[str]) -> None:
    assert order(router({"m": ABLE}), "m", needs) == able


def test_where_nobody_can_it_says_what_is_lacking() -> None:
    made = router({"m": {"targets": ABLE["targets"][:2]}})
    with pytest.raises(InvalidValue) as raised:
        made.candidates("m", Needs(tools=True, tokens=5000))
    assert raised.value.field == "model"
    assert raised.value.details == {"lacking": ["context length", "tools"]}


def test_fallbacks_come_after_each_in_its_own_order_and_cycles_end() -> None:
    made = router(
        {
            "a": to("a1", "a2", fallbacks=["b", "c"]),
            "b": to("b1", "b2", fallbacks=["a", "d"]),
            "c": to("c1", fallbacks=["c", "b"]),
            "d": to("d1", fallbacks=["a"]),
        }
    )
    assert order(made, "a") == ["a1", "a2", "b1", "b2", "c1", "d1"]
    assert order(made, "d") == ["d1", "a1", "a2", "b1", "b2", "c1"]


def test_a_fallback_that_can_stands_in_for_those_that_cannot() -> None:
    made = router({"a": {"targets": ABLE["targets"][:1], "fallbacks": ["b"]}, "b": to("big")})
    assert order(made, "a", Needs(tools=True)) == ["big"]


def test_the_broken_and_the_resting_come_last() -> None:
    made = router({"m": to("a", "b", "c")})
    a, b, _ = made.targets("m")
    break_(a)
    b.rest(30)
    assert order(made, "m") == ["c", "a", "b"]


def test_an_unknown_name_is_not_found_without_a_default() -> None:
    with pytest.raises(NotFound) as raised:
        router({"m": to("a")}).candidates("x" * 300, Needs())
    assert raised.value.field == "model"
    assert len(raised.value.message) < 200
    assert raised.value.details == {"available": ["m"]}


def test_a_default_provider_takes_any_name_and_keeps_their_troubles_apart() -> None:
    made = router({}, default_provider="q")
    first = made.candidates("gpt-x", Needs())
    assert [target.name for target in first] == ["q/gpt-x"]
    break_(first[0])
    assert not made.candidates("gpt-x", Needs())[0].breaker.allows()
    assert made.candidates("gpt-y", Needs())[0].breaker.allows()


def test_the_local_model_answers_to_its_own_name_before_the_default_provider() -> None:
    made = router({}, default_provider="q")
    assert made.candidates("my-local-model", Needs())[0].provider.name == "here"


def test_an_explanation_tells_the_order_and_who_was_left_out() -> None:
    made = router({"m": {**ABLE, "strategy": "least_busy"}})
    made.targets("m")[2].busy = 2
    explained = made.explain("m", Needs(images=True))
    assert (explained["model"], explained["strategy"]) == ("m", "least_busy")
    assert [entry["target"] for entry in explained["order"]] == ["p/seeing", "p/all"]
    assert explained["order"][1]["busy"] == 2
    assert [(entry["target"], entry["lacking"]) for entry in explained["left_out"]] == [("p/small", ["images"])]


@pytest.mark.parametrize(
    ("name", "strategy", "target"),
    [
        ("gpt-x", "passed on to the default provider", "q/gpt-x"),
        ("my-local-model", "answered in this process: it is a model's own name", "here/my-local-model"),
        ("rag/shared/x", "answered in this process, as every name that begins with rag/", "docs/shared/x"),
        ("agent/x", "answered in this process, as every name that begins with agent/", "agent/x"),
        ("ragtime", "passed on to the default provider", "q/ragtime"),
    ],
)
def test_a_name_that_is_not_listed_is_explained_by_who_takes_it(name: str, strategy: str, target: str) -> None:
    explained = router({}, default_provider="q").explain(name, Needs())
    assert explained["strategy"] == strategy
    assert [entry["target"] for entry in explained["order"]] == [target]


def test_a_local_model_as_the_default_takes_strangers_names_as_a_default_does() -> None:
    assert router({}, default_provider="here").explain("x", Needs())["strategy"] == "passed on to the default provider"


def test_an_old_latency_is_forgotten() -> None:
    target = router({"m": to("a")}).targets("m")[0]
    target.answered(0.5, streamed=True)
    assert target.latency == 0.5
    target._measured_at = float("-inf")
    assert target.latency is None


def test_the_dearest_price_is_the_worst_of_prompt_and_answer_among_those_that_may_answer() -> None:
    targets = [
        {"provider": "p", "model": "a", "price": {"input": 1, "output": 9}},
        {"provider": "p", "model": "b", "price": {"input": 5, "output": 2}, "tools": False},
    ]
    made = router({"m": {"targets": targets, "fallbacks": ["n"]}, "n": to("cheap")})
    dearest = made.dearest("m", Needs())
    assert dearest is not None
    assert (dearest.input, dearest.output) == (5, 9)
    with_tools = made.dearest("m", Needs(tools=True))
    assert with_tools is not None
    assert with_tools.input == 1


def test_one_price_that_is_not_known_makes_all_of_it_unknown() -> None:
    assert router({"m": to("cheap", "unheard-of")}).dearest("m", Needs()) is None


def test_a_model_of_this_process_costs_nothing() -> None:
    made = router({}, default_provider="p")
    dearest = made.dearest("my-local-model", Needs())
    assert dearest is not None
    assert (dearest.input, dearest.output) == (0, 0)


def test_it_tells_every_target_and_every_name_that_means_something() -> None:
    made = router({"m": to("a", "b")}, default_provider="q")
    made.candidates("made up by a caller", Needs())
    assert {target.name for target in made.everywhere()} == {
        "p/a",
        "p/b",
        "here/my-local-model",
        "q/made up by a caller",
    }
    assert made.models() == {"m", "a", "b", "my-local-model"}


@pytest.mark.parametrize("name", ["rag/notes", "agent/clerk"])
def test_what_is_meant_for_this_process_never_goes_to_the_default_provider(name: str) -> None:
    config = GatewayConfig.model_validate({"providers": {"p": {"base_url": "http://p"}}, "default_provider": "p"})
    chat = ScriptedModel(saying("x"), name="m")
    made = {"p": Provider("p", config.providers["p"], LocalWire(chat), chat, Admission(4, 4, 1))}
    alone = Router(config, made)
    with pytest.raises(NotFound, match=f"no provider of the kind {name.partition('/')[0]}"):
        alone.candidates(name, Needs())
    assert alone.candidates(name.partition("/")[0], Needs())[0].provider.name == "p"
