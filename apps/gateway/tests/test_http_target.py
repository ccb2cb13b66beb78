"""What a target sends: its provider's path, its key, and a model's name that stays a name."""

import pytest

from apps.gateway.protocol import WireCall
from apps.gateway.routing.config import ProviderConfig
from apps.gateway.upstream.http_target import HttpTarget
from apps.tests.support.raw_upstream import answer, raw_upstream

CALL = WireCall("/chat/completions", b'{"model":"m"}', {"model": "m"}, stream=False)


@pytest.mark.parametrize(
    ("model", "deployment"),
    [
        ("m", b"m"),
        ("a b/c?d#e", b"a%20b%2Fc%3Fd%23e"),
        ("x HTTP/1.1\r\nHost: evil", b"x%20HTTP%2F1.1%0D%0AHost%3A%20evil"),
    ],
)
async def test_azure_has_the_model_in_the_path_and_the_key_in_a_header(model: str, deployment: bytes) -> None:
    whole = b'{"choices": [{"message": {"content": "hi"}}]}'
    async with raw_upstream(answer(whole)) as upstream:
        base = upstream.base_url.removesuffix("/v1")
        config = ProviderConfig(kind="azure", base_url=base, api_key_env="KEY", api_version="2024-10-21")
        target = HttpTarget(config, "sk-azure", lambda: {"traceparent": "00-1"})
        reply = await target.open(CALL, model)
        await target.aclose()
    assert reply.body == whole
    first, *headers = upstream.requests[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    path = b"/openai/deployments/" + deployment + b"/chat/completions?api-version=2024-10-21"
    assert first == b"POST " + path + b" HTTP/1.1"
    assert {b"api-key: sk-azure", b"traceparent: 00-1", b"Accept-Encoding: identity"} <= set(headers)
    assert sum(line.lower().startswith(b"host:") for line in headers) == 1
