"""/admin/routing/check: what is wrong with a routing file, before it is in force."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.reading import envelope
from apps.tests.support.serving import serving_models

GOOD = """
providers:
  local: {kind: local}
models:
  fast: {targets: [{provider: local, model: local}]}
"""
BAD = """
providers:
  local: {kind: local, api_key: sesame}
models:
  fast: {targets: [{provider: nowhere, model: local}]}
"""


def checked(http: httpx2.Client, body: dict[str, Any], **changes: Any) -> httpx2.Response:
    with serving_models(auth="off", **changes) as url:
        return http.post(f"{url}/admin/routing/check", json=body)


def test_a_good_file_is_said_to_be_good(http: httpx2.Client) -> None:
    told = checked(http, {"yaml": GOOD}).json()
    assert told == {"ok": True, "faults": [], "models": ["fast"], "providers": ["local"]}


@pytest.mark.parametrize("text", [BAD, "a: [", "providers: {}\nproviders: {}", "", "&a [*a]", "x: 2024-99-99"])
@pytest.mark.long
def test_every_fault_is_told_and_no_value(http: httpx2.Client, text: str) -> None:
    told = checked(http, {"yaml": text}).json()
    assert told["ok"] is False and told["faults"]
    if text is BAD:
        assert len(told["faults"]) == 2 and "sesame" not in str(told)


def test_the_services_own_file_is_checked_as_it_is_now(http: httpx2.Client, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(GOOD)
    with serving_models(auth="off", gateway_config=file) as url:
        assert http.post(f"{url}/admin/routing/check", json={}).json()["ok"] is True
        file.write_text(BAD)
        assert http.post(f"{url}/admin/routing/check", json={}).json()["ok"] is False
        assert http.get(f"{url}/v1/models").json()["data"][0]["id"] == "fast"


def test_without_a_file_there_is_nothing_to_check_and_a_long_one_is_refused(http: httpx2.Client) -> None:
    error = envelope(checked(http, {}))
    assert (error["code"], error["field"]) == ("INVALID_VALUE", "yaml")
    assert envelope(checked(http, {"yaml": "x" * 65_537}))["code"] == "INVALID_VALUE"
