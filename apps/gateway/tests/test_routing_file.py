"""The routing file: what is right is taken, what is wrong is reported by path, all at once, and without values."""

from pathlib import Path

import pytest

from apps.gateway.routing.config import GatewayConfig, GatewayConfigError, boundary_of, load_gateway_config

GOOD = """
providers:
  cloud:
    base_url: https://api.example.com/v1
    api_key_env: CLOUD_KEY
    timeouts: {connect: 5, first_token: 10, between_tokens: 10, total: 100}
    max_concurrency: 8
    prices: {big: {input: 2.5, output: 10}}
  azure: {kind: azure, base_url: "https://x.openai.azure.com", api_key_env: AZURE_KEY, api_version: 2024-10-21}
  here: {kind: local}
models:
  smart:
    strategy: cheapest
    targets:
      - {provider: cloud, model: big, context: 128000, weight: 2}
      - {provider: azure, model: big, price: {input: 2, output: 8}, images: false}
    fallbacks: [small]
  small: {targets: [{provider: here, model: ""}]}
default_provider: cloud
"""


def load(tmp_path: Path, text: str) -> GatewayConfig:
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return load_gateway_config(path)


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(GatewayConfigError) as raised:
        load(tmp_path, text)
    prefix = f"{tmp_path / 'gateway.yaml'}: "
    lines = str(raised.value).splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_the_shipped_example_is_right() -> None:
    config = load_gateway_config(Path(__file__).parents[3] / "infra" / "gateway.example.yaml")
    assert config.models
    assert config.providers


def test_every_fault_is_reported_by_its_path_all_at_once(tmp_path: Path) -> None:
    text = """
providers:
  a: {base_url: ftp://x, timeouts: {connect: 0, totl: 5}}
  b: {kind: telegraph}
  c: {kind: azure, base_url: "https://x"}
  d: {max_concurrency: 1}
models:
  m:
    strategy: best
    targets: [{provider: nowhere, model: x, weight: -1}]
    fallbacks: [gone]
  n: {targets: []}
default_provider: elsewhere
surprise: 1
"""
    found = {fault.partition(":")[0] for fault in faults(tmp_path, text)}
    assert found == {
        "providers.a.base_url",
        "providers.a.timeouts.connect",
        "providers.a.timeouts.totl",
        "providers.b.kind",
        "providers.c",
        "providers.d",
        "models.m.strategy",
        "models.m.targets.0.provider",
        "models.m.targets.0.weight",
        "models.m.fallbacks.0",
        "models.n.targets",
        "default_provider",
        "surprise",
    }


@pytest.mark.parametrize("text", ["", "[]", "null", "just text", "5"])
def test_a_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    assert len(faults(tmp_path, text)) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("providers:\n  a: {kind: local}\n  a: {kind: local}\n", 3),
        ("providers: {a: {kind: local}}\nmodels: {}\nproviders: {}\n", 3),
        ("providers:\n  a:\n    kind: local\n    kind: azure\n", 4),
    ],
)
def test_a_key_that_stands_there_twice_is_a_fault(text: str, line: int, tmp_path: Path) -> None:
    assert faults(tmp_path, text) == [f"the same key twice at line {line}"]


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tx", "!!python/object/apply:os.system ['true']", "&a [*a]"])
def test_what_is_not_yaml_is_told_and_runs_nothing(text: str, tmp_path: Path) -> None:
    assert len(faults(tmp_path, text)) == 1


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(GatewayConfigError, match="No such file"):
        load_gateway_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GatewayConfigError, match="not UTF-8"):
        load_gateway_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "providers: {a: {base_url: 'https://x', api_key_env: sk-secret-1}}",
        "providers: {a: {base_url: 'sk-secret-1'}}",
        "providers: {a: {base_url: 'https://x', api_key: sk-secret-1}}",
        "providers: {a: {kind: sk-secret-1, base_url: 'https://x'}}",
        "providers: {a: sk-secret-1}",
        "providers: {a: {base_url: 'https://x', api_key_env: [sk-secret-1]}}",
        "providers: {a: {base_url: sk-secret-1: x}}",
    ],
)
def test_no_value_is_repeated_since_it_may_be_a_secret(text: str, tmp_path: Path) -> None:
    assert "secret" not in "\n".join(faults(tmp_path, text))


def test_merged_keys_and_anchors_work(tmp_path: Path) -> None:
    text = "providers:\n  a: &a {kind: local, queue_size: 3}\n  b: {<<: *a, queue_size: 4}\n"
    config = load(tmp_path, text)
    assert (config.providers["a"].queue_size, config.providers["b"].queue_size) == (3, 4)


@pytest.mark.parametrize(
    ("address", "boundary"),
    [
        ("http://127.0.0.1:8001/v1", "machine"),
        ("http://[::1]:8001", "machine"),
        ("http://localhost:11434/v1", "machine"),
        ("http://LocalHost.", "machine"),
        ("http+unix://%2Frun%2Fgenai.sock", "machine"),
        ("http://10.0.0.11:8001", "network"),
        ("http://[fd00::1]/v1", "network"),
        ("http://vllm:8000/v1", "network"),
        ("dns://models.internal:8001", "network"),
        ("list+http://fleet.svc:8001/replicas", "network"),
        ("https://api.openai.com/v1", "outside"),
        ("https://8.8.8.8/v1", "outside"),
        ("https://internal.example.com/v1", "outside"),
        # a name that some resolvers take for 127.0.0.1 is none that says so
        ("http://127.1/v1", "outside"),
        ("http://134744072/v1", "outside"),
        ("http://0x08080808/v1", "outside"),
    ],
)
def test_how_far_an_address_is(address: str, boundary: str) -> None:
    assert boundary_of([address]) == boundary


def test_of_several_addresses_the_furthest_counts() -> None:
    assert boundary_of(["http://127.0.0.1:1", "http://10.0.0.1:1"]) == "network"
    assert boundary_of(["https://example.com", "http://10.0.0.1:1", "http://127.0.0.1:1"]) == "outside"
