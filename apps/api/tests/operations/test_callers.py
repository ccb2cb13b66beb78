"""What a caller is held to beyond its key: scopes of models, refused keys an address, idempotency keys, addresses."""

from pathlib import Path
from typing import Any

import httpx2

from apps.api.src.application import create_app
from apps.api.src.wiring.services import build_services
from apps.tests.support.keys import bearer, make_keys
from apps.tests.support.serving import serving_models, settings


async def test_a_websocket_is_refused_by_the_layer_itself(tmp_path: Path) -> None:
    configured = settings(auth="on", data_dir=tmp_path)
    app = create_app(configured, build_services(configured))
    denial: dict[str, Any] = {"websocket.http.response": {}}
    for extensions, expected in (({}, "websocket.close"), (denial, "websocket.http.response.start")):
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/v1/realtime",
            "headers": [],
            "extensions": extensions,
            "client": None,
        }
        await app(scope, receive, send)
        assert sent[0]["type"] == expected
        assert sent[0].get("status", 401) == 401


def test_a_scope_lists_only_the_models_that_it_opens(tmp_path: Path, http: httpx2.Client) -> None:
    configured = settings(auth="on", data_dir=tmp_path)
    cloud, local = make_keys(configured, {"models": ["gpt-4o*"]}, {"models": ["local"]})
    with serving_models(auth="on", data_dir=tmp_path) as url:
        names = {
            key: [model["id"] for model in http.get(f"{url}/v1/models", headers=bearer(key)).json()["data"]]
            for key in (cloud, local)
        }
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        own = names[local][0]
        statuses = {
            (key, model): http.post(
                f"{url}/v1/chat/completions", json={**chat, "model": model}, headers=bearer(key)
            ).status_code
            for key in (cloud, local)
            for model in ("gpt-4o-mini", own, "local")
        }
        asked = {key: http.post(f"{url}/local/generate", json={"prompt": "hi"}, headers=bearer(key)) for key in names}
        cloudy = http.post(f"{url}/generate", json={"prompt": "hi", "model": own}, headers=bearer(local))
    assert names == {cloud: ["gpt-4o-mini"], local: [own]}
    assert statuses[local, own] == 200
    assert {statuses[local, "gpt-4o-mini"], statuses[local, "local"], statuses[cloud, own]} == {403}
    assert statuses[cloud, "gpt-4o-mini"] != 403
    assert (asked[local].status_code, asked[cloud].status_code, cloudy.status_code) == (200, 403, 403)


def test_refused_keys_are_limited_an_address_and_known_keys_go_on(tmp_path: Path, http: httpx2.Client) -> None:
    configured = settings(auth="on", data_dir=tmp_path)
    good, unseen = make_keys(configured, {}, {})
    limits: dict[str, Any] = {"rate_limit_enabled": True, "rate_limit_auth": "5/minute", "rate_limit_v1": "1000/minute"}
    with serving_models(auth="on", data_dir=tmp_path, **limits) as url:

        def status(headers: dict[str, str]) -> int:
            return http.get(f"{url}/v1/models", headers=headers).status_code

        assert status(bearer(good)) == 200
        assert [status(bearer(f"ga_{n}")) for n in range(12)] == [401] * 5 + [429] * 7
        refused = http.get(f"{url}/v1/models", headers=bearer("ga_x"))
        assert refused.json()["error"]["error_code"] == "RATE_LIMIT_EXCEEDED"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        # who has shown a good key is let through; who has not waits, since looking is what is limited
        assert status(bearer(good)) == 200
        assert status(bearer(unseen)) == 429
        assert status({}) == 401


def test_a_key_belongs_to_its_idempotency_keys_wherever_it_calls_from(tmp_path: Path, http: httpx2.Client) -> None:
    configured = settings(auth="on", data_dir=tmp_path)
    mine, same_tenant, other = make_keys(configured, {"tenant": "a"}, {"tenant": "a"}, {"tenant": "b"})
    with serving_models(auth="on", data_dir=tmp_path, forwarded_allow_ips=["127.0.0.1"]) as url:
        names = [model["id"] for model in http.get(f"{url}/v1/models", headers=bearer(mine)).json()["data"]]
        body = {
            "model": next(name for name in names if name != "gpt-4o-mini"),
            "messages": [{"role": "user", "content": "hi"}],
        }

        def cache(key: str, address: str) -> str:
            headers = {**bearer(key), "Idempotency-Key": "one", "X-Forwarded-For": address}
            return str(http.post(f"{url}/v1/chat/completions", json=body, headers=headers).headers["x-cache"])

        assert [cache(mine, "10.0.0.1"), cache(mine, "10.0.0.2")] == ["miss", "replay"]
        assert [cache(same_tenant, "10.0.0.1"), cache(other, "10.0.0.1")] == ["miss", "miss"]


def test_an_address_is_the_one_that_the_proxy_says(tmp_path: Path, http: httpx2.Client) -> None:
    configured = settings(auth="on", data_dir=tmp_path)
    (key,) = make_keys(configured, {"ip": ["10.1.0.0/16", "2001:db8::/32"]})
    with serving_models(auth="on", data_dir=tmp_path, forwarded_allow_ips=["127.0.0.1"]) as url:
        found = {
            address: http.get(f"{url}/v1/models", headers={**bearer(key), "X-Forwarded-For": address}).status_code
            for address in ("10.1.2.3", "2001:db8::5", "::ffff:10.1.2.3", "10.2.0.1", "nonsense")
        }
    assert found == {"10.1.2.3": 200, "2001:db8::5": 200, "::ffff:10.1.2.3": 200, "10.2.0.1": 401, "nonsense": 401}
