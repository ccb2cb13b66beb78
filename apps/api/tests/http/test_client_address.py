"""Whose budget a request takes: the socket's, whatever it claims, unless a trusted proxy says otherwise."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.processes import COMMANDS, running
from apps.tests.support.serving import serving_models

LIMIT = {"RATE_LIMIT_ENABLED": "true", "RATE_LIMIT_HEALTH": "5/minute"}
FORGED = 1000


def forged(url: str, http: httpx2.Client, times: int) -> list[int]:
    """The statuses of calls that each claim another address, in each of the ways to claim one."""
    claims = [
        lambda n: {"X-Forwarded-For": f"10.{n % 250}.{n // 250}.1"},
        lambda n: {"X-Forwarded-For": f"10.0.{n // 250}.{n % 250}, 127.0.0.1"},
        lambda n: {"X-Forwarded-For": f"127.0.0.1, 2001:db8::{n:x}"},
        lambda n: {"X-Forwarded-For": f"nonsense-{n}"},
        lambda n: {
            "X-Forwarded-For": f"1.1.1.{n % 250}",
            "X-Real-IP": f"2.2.2.{n % 250}",
            "Forwarded": f"for=3.3.3.{n}",
        },
        lambda n: {"X-Forwarded-For": f"[2001:db8::{n:x}]:{n}", "X-Forwarded-Proto": "https"},
    ]
    return [http.get(f"{url}/health", headers=claims[n % len(claims)](n)).status_code for n in range(times)]


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.long
def test_a_thousand_forged_addresses_are_one_bucket(kind: str, tmp_path: Path, http: httpx2.Client) -> None:
    with running(tmp_path, kind, **LIMIT) as service:
        assert forged(service.url, http, FORGED) == [200] * 5 + [429] * (FORGED - 5)


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("where", ["environment", ".env"])
@pytest.mark.long
def test_a_trusted_proxy_says_who_calls(kind: str, where: str, tmp_path: Path, http: httpx2.Client) -> None:
    trust = {"FORWARDED_ALLOW_IPS": "127.0.0.1"}
    if where == ".env":
        (tmp_path / ".env").write_text("FORWARDED_ALLOW_IPS=127.0.0.1\n")
    with running(tmp_path, kind, **LIMIT, **(trust if where == "environment" else {})) as service:
        for client in ("198.51.100.1", "198.51.100.2", "2001:db8::7"):
            headers = {"X-Forwarded-For": f"203.0.113.{len(client)}, {client}"}
            statuses = [http.get(f"{service.url}/health", headers=headers).status_code for _ in range(6)]
            assert statuses == [200] * 5 + [429], client


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.long
def test_another_proxy_than_the_trusted_one_says_nothing(kind: str, tmp_path: Path, http: httpx2.Client) -> None:
    (tmp_path / ".env").write_text("FORWARDED_ALLOW_IPS=192.0.2.1, 10.0.0.0/8\n")
    with running(tmp_path, kind, **LIMIT) as service:
        assert forged(service.url, http, 20) == [200] * 5 + [429] * 15


def test_a_trusted_network_counts(http: httpx2.Client) -> None:
    changes: dict[str, Any] = {
        "rate_limit_enabled": True,
        "rate_limit_health": "1/minute",
        "forwarded_allow_ips": ["127.0.0.0/8"],
    }
    with serving_models(**changes) as url:
        statuses = [
            http.get(f"{url}/health", headers={"X-Forwarded-For": client}).status_code
            for client in ("198.51.100.1", "198.51.100.2", "198.51.100.1")
        ]
    assert statuses == [200, 200, 429]
