"""What a caller may use and call: patterns of names and paths, and `local`, which no model is called."""

import pytest

from apps.core.callers import ANONYMOUS, LOCAL, SHARED, Caller


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        (("*",), "gpt-4o", True),
        (("gpt-*",), "gpt-4o", True),
        (("gpt-*",), "GPT-4o", False),
        (("gpt-4?",), "gpt-4o", True),
        (("gpt-4?",), "gpt-4o-mini", False),
        (("claude-*", "gpt-4o"), "gpt-4o", True),
        ((), "gpt-4o", False),
        ((LOCAL,), "gpt-4o", False),
        # a model of that name upstream is not the local one
        ((LOCAL,), "local", False),
        ((LOCAL, "*"), "local", True),
    ],
)
def test_models_are_allowed_by_pattern(patterns: tuple[str, ...], model: str, may: bool) -> None:
    assert Caller("tenant", models=patterns).may_use(model) is may


@pytest.mark.parametrize(
    ("patterns", "path", "may"),
    [
        (("*",), "/v1/models", True),
        (("/v1/*",), "/v1/chat/completions", True),
        (("/v1/*",), "/generate", False),
        (("/rag/*", "/generate"), "/generate", True),
        ((), "/generate", False),
    ],
)
def test_routes_are_allowed_by_pattern(patterns: tuple[str, ...], path: str, may: bool) -> None:
    assert Caller("tenant", routes=patterns).may_call(path) is may


def test_by_default_a_key_may_use_all_models_and_routes_but_not_admin() -> None:
    caller = Caller("tenant")
    assert caller.may_use("any/model")
    assert caller.may_call("/any/path")
    assert not caller.admin
    assert caller.name == ""


def test_without_keys_everybody_is_the_operator_of_one_tenant() -> None:
    assert ANONYMOUS.admin
    # names that are kept in databases and told to callers
    assert (ANONYMOUS.tenant, SHARED, LOCAL) == ("anonymous", "shared", "local")
