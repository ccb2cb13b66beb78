"""What each kind of setting takes and refuses, and what it makes of the value."""

from typing import Any

import pytest
from pydantic import ValidationError

from apps.core.settings import Settings

SECRET = "0123456789abcdef" * 2
SHORT = SECRET[:-1]
ALL_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


def made(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def plain(value: Any) -> Any:
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("rate_limit_generate", " 10/MINUTE ", "10/minute"),
        ("rate_limit_generate", "5 per 2 hours", "5 per 2 hours"),
        ("rate_limit_generate", "1/second", "1/second"),
        ("rate_limit_generate", "100 / day", "100 / day"),
        ("rate_limit_generate", "9 / 12 months", "9 / 12 months"),
        ("rate_limit_generate", "3/year", "3/year"),
        ("allowed_origins", "*", ["*"]),
        ("allowed_origins", "http://a:3000,,https://b.example", ["http://a:3000", "https://b.example"]),
        ("allowed_origins", ["https://b.example"], ["https://b.example"]),
        ("otel_exporter_otlp_endpoint", "", ""),
        ("otel_exporter_otlp_endpoint", "http://collector:4318", "http://collector:4318"),
        ("openai_base_url", "https://a.example:65535/v1", "https://a.example:65535/v1"),
        ("openai_api_key", "", ""),
        ("database_url", " postgresql://u:p@host/db\n", "postgresql://u:p@host/db"),
        ("database_url", "postgres://host/db", "postgres://host/db"),
        ("database_url", "postgresql+asyncpg://host/db", "postgresql+asyncpg://host/db"),
        ("database_url", " ", ""),
        ("secret_key", f" {SECRET}\n", SECRET),
        ("fleet_secret", f" {SECRET}\n", SECRET),
        ("local_url", "http+unix://%2Frun%2Fmodel.sock", "http+unix://%2Frun%2Fmodel.sock"),
        ("local_url", "list+https://head:8642/replicas/all", "list+https://head:8642/replicas/all"),
        ("local_url", "http://a:1/x/", "http://a:1/x"),
        ("local_url", "", ""),
        ("read_timeout", 3600, 3600),
        ("oidc_issuer", "", ""),
        ("oidc_algorithms", ",".join(ALL_ALGORITHMS), ALL_ALGORITHMS),
        ("oidc_algorithms", "ES256", ["ES256"]),
    ],
)
def test_what_is_taken(name: str, given: Any, taken: Any) -> None:
    assert plain(getattr(made(**{name: given}), name)) == taken


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("read_timeout", "3600.5", "less than or equal to 3600"),
        ("read_timeout", "nan", "less than or equal to 3600"),
        ("rate_limit_generate", "0/minute", "must look like 10/minute"),
        ("rate_limit_generate", "10/minutely", "must look like 10/minute"),
        ("rate_limit_generate", "10 minute", "must look like 10/minute"),
        ("allowed_origins", "a.example", "each must look like https://example.com"),
        ("allowed_origins", "https://a.example/", "each must look like https://example.com"),
        ("otel_exporter_otlp_endpoint", "collector:4318", "must start with http:// or https://"),
        ("openai_base_url", "https://a.example/\u2028", "must start with http:// or https://"),
        ("openai_base_url", "https://a.example:0", "must name a host, and a port from 1 to 65535"),
        ("openai_base_url", "https://a.example:65536", "must name a host, and a port from 1 to 65535"),
        ("openai_base_url", "https://a.example/a b", "must name a host, and a port from 1 to 65535"),
        ("openai_base_url", "https:///v1", "must name a host, and a port from 1 to 65535"),
        ("openai_api_key", "sk-\u00e9", "must be printable ASCII"),
        ("openai_api_key", "sk-a\tb", "must be printable ASCII"),
        ("database_url", "mysql://host/db", "must look like postgresql://"),
        ("database_url", "postgresql:///db", "must look like postgresql://"),
        ("secret_key", SHORT, "must have at least 32 characters"),
        ("fleet_secret", SHORT, "must have at least 32 characters of printable ASCII"),
        ("fleet_secret", "\u00e9" * 32, "must have at least 32 characters of printable ASCII"),
        ("fleet_secret", SECRET + "\t" + SECRET, "must have at least 32 characters of printable ASCII"),
        ("local_url", "dns://models", "must start with http:// or https://"),
        ("oidc_issuer", "issuer.example", "must start with http:// or https://"),
        ("oidc_algorithms", "", "must be some of ES256, ES384"),
        ("oidc_algorithms", "HS256", "must be some of ES256, ES384"),
        ("oidc_algorithms", "RS256,none", "must be some of ES256, ES384"),
    ],
)
def test_what_is_refused_is_told_what_would_be_right(name: str, given: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        made(**{name: given})
    (fault,) = caught.value.errors()
    assert fault["loc"] == (name,)
    assert says in fault["msg"]


@pytest.mark.parametrize(
    ("values", "fails"),
    [
        ({"env": "production"}, True),
        ({"env": "production", "secret_key": SECRET}, False),
        ({"env": "production", "auth": "off"}, False),
        ({"env": "production", "auth": "on"}, True),
        ({"env": "development"}, False),
    ],
)
def test_production_has_a_secret_of_its_own_unless_there_are_no_keys(values: dict[str, Any], fails: bool) -> None:
    assert refused("secret_key", values) is fails


@pytest.mark.parametrize(
    ("values", "fails"),
    [
        ({"serve_role": "model"}, True),
        ({"serve_role": "model", "fleet_secret": SECRET}, False),
        ({"serve_role": "model", "api_uds": "/run/model.sock"}, False),
        # an inherited socket may be a port's, and goes before API_UDS
        ({"serve_role": "model", "api_uds": "/run/model.sock", "api_fd": 3}, True),
        ({"serve_role": "all"}, False),
    ],
)
def test_a_model_that_listens_on_a_port_shares_a_secret_with_its_gateways(values: dict[str, Any], fails: bool) -> None:
    assert refused("fleet_secret", values) is fails


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"env": "production", "oidc_issuer": "http://issuer"}, "oidc_issuer"),
        ({"oidc_issuer": "https://issuer.example"}, "oidc_audience"),
        ({"env": "production", "oidc_issuer": "https://issuer.example", "oidc_audience": "a"}, ""),
        ({"env": "development", "oidc_issuer": "http://issuer", "oidc_audience": "a"}, ""),
        ({"oidc_audience": "a"}, ""),
    ],
)
def test_an_issuer_has_https_in_production_and_an_audience(values: dict[str, Any], field: str) -> None:
    for name in ("oidc_issuer", "oidc_audience"):
        assert refused(name, {"secret_key": SECRET, **values}) is (name == field)


def test_the_audience_of_an_issuer_is_kept() -> None:
    assert made(oidc_issuer="https://issuer.example", oidc_audience="a").oidc_audience == "a"


@pytest.mark.parametrize(
    ("values", "starts"),
    [
        ({"api_workers": 1}, False),
        ({"api_workers": 2}, True),
        ({"api_workers": 2, "serve_role": "model", "fleet_secret": SECRET}, False),
        # it is one of those that were started
        ({"api_workers": 2, "api_peers": "0@/run/peers"}, False),
    ],
)
def test_several_processes_are_started_by_one_that_serves_nothing_itself(values: dict[str, Any], starts: bool) -> None:
    assert made(**values).starts_workers is starts


def refused(name: str, values: dict[str, Any]) -> bool:
    try:
        made(**values)
    except ValidationError as error:
        return (name,) in [fault["loc"] for fault in error.errors()]
    return False
