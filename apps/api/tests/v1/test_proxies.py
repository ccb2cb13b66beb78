"""Every call that leaves for an upstream goes by the environment: its proxies, and the certificates that it trusts."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509

from apps.tests.support.certificates import HERE, certificate, server_context
from apps.tests.support.odd_upstream import DONE, HELLO, USAGE, answered, chunked, odd_upstream, whole
from apps.tests.support.processes import running
from apps.tests.support.proxy import proxy

# resolved by the proxy alone
NAME = "upstream.invalid"
CHAT: dict[str, Any] = {"model": "hello", "messages": [{"role": "user", "content": "hi"}]}
PASSWORD = "k7Qw2Zp9XvB4"


def ask_everything(http: httpx2.Client, url: str) -> None:
    """A call of each kind, which must be answered."""
    answer = http.post(f"{url}/generate", json={"prompt": "hi", "model": "hello"})
    assert answer.json() == {"response": "Hello there"}, answer.text
    answer = http.post(f"{url}/v1/chat/completions", json=CHAT)
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
    assert "[DONE]" in http.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True}).text
    answer = http.post(f"{url}/v1/embeddings", json={"model": "e", "input": ["a"]})
    assert answer.json()["data"][0]["embedding"] == [1.0] * 8


@pytest.mark.parametrize("way", ["proxy", "no-proxy"])
def test_all_calls_go_through_the_proxy_and_none_where_it_is_bypassed(
    way: str, tmp_path: Path, http: httpx2.Client
) -> None:
    cert, key = certificate(tmp_path, x509.DNSName(NAME), HERE)
    hello = {"hello": chunked(HELLO, USAGE, DONE)}
    with (
        odd_upstream(hello, {"hello": answered(whole())}, server_context(cert, key)) as upstream,
        proxy(names={NAME: upstream.port}) as between,
    ):
        through = between.url.replace("http://", f"http://user:{PASSWORD}@")
        changes = {"SSL_CERT_FILE": str(cert), "HTTPS_PROXY": through, "AUTH": "off"}
        if way == "proxy":
            changes |= {"OPENAI_BASE_URL": f"https://{NAME}/v1"}
        else:
            changes |= {"OPENAI_BASE_URL": upstream.base_url, "NO_PROXY": "127.0.0.1"}
        with running(tmp_path, "module", **changes) as service:
            ask_everything(http, service.url)
            log = service.log.read_text()
        asked = len(upstream.seen)
    assert asked == 4
    assert PASSWORD not in log
    if way == "no-proxy":
        assert between.seen == []
        return
    assert set(between.requests()) == {("CONNECT", f"{NAME}:443")}
    assert all(b"\r\nProxy-Authorization: Basic " in head for head in between.seen)


def test_a_certificate_that_is_refused_is_named_in_the_log(tmp_path: Path, http: httpx2.Client) -> None:
    with odd_upstream({}, {}, server_context(*certificate(tmp_path, HERE))) as upstream:
        with running(tmp_path, "module", OPENAI_BASE_URL=upstream.base_url, RETRY_ATTEMPTS="1", AUTH="off") as service:
            answer = http.post(f"{service.url}/generate", json={"prompt": "hi"})
            log = service.log.read_text()
        assert upstream.seen == []
    assert answer.status_code == 500
    assert f"127.0.0.1:{upstream.port}" not in answer.text
    assert f"The certificate of 127.0.0.1:{upstream.port} was refused: self-signed certificate" in log
