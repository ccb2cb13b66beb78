"""Proxies of the environment: which server has one, what it is asked, and what it must not see or tell."""

import asyncio
import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from apps.tests.support.certificates import HERE, certificate, contexts, server_context
from apps.tests.support.proxy import proxy
from apps.transport.client import Client, Connections
from apps.transport.dialing import Proxies
from apps.transport.origin import Origin
from apps.transport.response import ConnectionFailed
from apps.transport.tests.calls import in_seconds
from apps.transport.tests.raw_server import RawServer, Talk, always, raw_server, whole

P = "http://proxy.test:3128"


def chosen(url: str, **environment: str) -> str | None:
    found = Proxies(environment).of(Origin.of(url))
    return None if found is None else found.origin.host


@pytest.mark.parametrize(
    ("environment", "plain", "secure"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": P}, "proxy.test", None),
        ({"https_proxy": P}, None, "proxy.test"),
        ({"ALL_PROXY": P}, "proxy.test", "proxy.test"),
        ({"ALL_PROXY": P, "HTTPS_PROXY": "http://other.test"}, "proxy.test", "other.test"),
        ({"HTTP_PROXY": P, "http_proxy": "http://small.test"}, "small.test", None),
        ({"HTTP_PROXY": "proxy.test:3128"}, "proxy.test", None),
        ({"HTTP_PROXY": " ", "HTTPS_PROXY": ""}, None, None),
        ({"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, None, None),
        ({"ALL_PROXY": P, "NO_PROXY": "*"}, None, None),
    ],
)
def test_the_variables_of_the_environment(environment: dict[str, str], plain: str | None, secure: str | None) -> None:
    assert chosen("http://api.example/v1", **environment) == plain
    assert chosen("https://api.example/v1", **environment) == secure


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("api.example", "https://api.example/v1", True),
        ("API.Example", "https://api.example/v1", True),
        ("example", "https://api.example/v1", True),
        (".api.example", "https://a.api.example", True),
        ("*.example", "https://api.example", True),
        ("pi.example", "https://api.example", False),
        ("other, api.example", "https://api.example", True),
        ("other api.example", "https://api.example", True),
        ("api.example:443", "https://api.example", True),
        ("api.example:8443", "https://api.example", False),
        ("https://api.example/", "https://api.example", True),
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.0.0.0/8", "http://ten.example", False),
        ("::1", "http://[::1]:8000", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("[::1]:8001", "http://[::1]:8000", False),
        ("2001:db8::/32", "http://[2001:db8::5]", True),
        (",", "http://api.example", False),
        ("api.example:x", "http://api.example", False),
    ],
)
def test_who_is_called_directly(no_proxy: str, url: str, direct: bool) -> None:
    assert (chosen(url, ALL_PROXY=P, NO_PROXY=no_proxy) is None) is direct


@pytest.mark.parametrize("address", ["socks5://u:hunter2@h:1080", "http://", "http://u:hunter2@h:99999", "ftp://h"])
def test_a_proxy_that_cannot_be_used_is_a_failure_and_its_password_no_part_of_it(address: str) -> None:
    with pytest.raises(ConnectionFailed, match="ALL_PROXY") as caught:
        chosen("http://api.example", ALL_PROXY=address)
    assert "hunter2" not in str(caught.value)


def test_the_repr_of_a_proxy_has_no_password() -> None:
    found = Proxies({"ALL_PROXY": "http://us%40er:hunter2@h:3128"}).of(Origin.of("http://api.example"))
    assert found is not None
    assert found.authorization == "Basic dXNAZXI6aHVudGVyMg=="
    assert "hunter2" not in repr(found)
    assert found.authorization not in repr(found)


async def echo(talk: Talk) -> None:
    while True:
        await talk.send(whole(await talk.request()))


async def ask(server: RawServer, client: Client) -> bytes:
    response = await client.post(server.url + "/v1/chat?x=1", b"{}", in_seconds(30))
    assert response.status == 200
    return await response.read(30, in_seconds(30))


async def test_a_plain_server_is_asked_in_absolute_form_with_the_proxys_credentials() -> None:
    server = await raw_server(echo)
    with proxy() as between:
        through = between.url.replace("http://", "http://us%40er:hunter2@")
        connections = Connections({"http_proxy": through})
        client = Client(server.url, {"Authorization": "Bearer k"}, 5, connections=connections)
        seen = await ask(server, client)
        await connections.aclose()
    assert between.requests() == [("POST", server.url + "/v1/chat?x=1")]
    assert b"\r\nProxy-Authorization: Basic dXNAZXI6aHVudGVyMg==\r\n" in between.seen[0]
    assert b"\r\nAuthorization: Bearer k\r\n" in seen
    await server.aclose()


async def test_a_secure_server_is_asked_through_a_tunnel_that_shows_the_proxy_nothing(tmp_path: Path) -> None:
    tls, trusting = contexts(tmp_path, HERE)
    server = await raw_server(echo, tls)
    with proxy() as between:
        through = between.url.replace("http://", "http://user:hunter2@")
        connections = Connections({"HTTPS_PROXY": through}, trusting)
        client = Client(server.url, {"Authorization": "Bearer k"}, 5, connections=connections)
        for _ in range(3):
            seen = await ask(server, client)
            assert seen.startswith(b"POST /v1/chat?x=1 HTTP/1.1\r\n")
            assert b"Proxy-Authorization" not in seen
        await connections.aclose()
    assert between.requests() == [("CONNECT", server.url.removeprefix("https://"))]
    assert b"\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in between.seen[0]
    assert b"Bearer" not in b"".join(between.seen)
    await server.until_nobody()
    await server.aclose()


async def test_a_name_goes_to_the_proxy_as_it_is() -> None:
    server = await raw_server(echo)
    with proxy(names={"upstream.invalid": int(server.url.rpartition(":")[2])}) as between:
        connections = Connections({"ALL_PROXY": between.url})
        client = Client("http://upstream.invalid:1", {}, 5, connections=connections)
        response = await client.post("http://upstream.invalid:1/x", b"", in_seconds(30))
        assert response.status == 200
        await response.read(30, in_seconds(30))
        await connections.aclose()
    assert between.requests() == [("POST", "http://upstream.invalid:1/x")]
    await server.aclose()


async def test_a_proxy_may_want_tls_itself(tmp_path: Path) -> None:
    """TLS inside of TLS: the proxy's own server is one that answers CONNECT and then speaks for the upstream."""
    cert, key = certificate(tmp_path, HERE)
    inner = await raw_server(echo, server_context(cert, key))
    tunnels: list[bytes] = []

    async def tunnel(talk: Talk) -> None:
        tunnels.append(await talk.reader.readuntil(b"\r\n\r\n"))
        host, _, port = inner.url.removeprefix("https://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await talk.send(b"HTTP/1.1 200 OK\r\n\r\n")

        async def back() -> None:
            while data := await reader.read(65_536):
                await talk.send(data)

        backwards = asyncio.create_task(back())
        try:
            while data := await talk.reader.read(65_536):
                writer.write(data)
        finally:
            backwards.cancel()
            writer.close()

    outer = await raw_server(tunnel, server_context(cert, key))
    connections = Connections({"HTTPS_PROXY": outer.url}, ssl.create_default_context(cafile=cert))
    client = Client(inner.url, {}, 5, connections=connections)
    for _ in range(2):
        assert (await ask(inner, client)).startswith(b"POST /v1/chat?x=1 HTTP/1.1\r\n")
    assert len(tunnels) == 1
    await connections.aclose()
    await outer.aclose()
    await inner.aclose()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nand more",
        b"SSH-2.0 hello\r\n\r\n",
        b"HTTP/1.1 200",
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_a_failed_connection(
    reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with proxy(reply) as between:
        connections = Connections({"ALL_PROXY": between.url.replace("http://", "http://user:hunter2@")})
        client = Client("https://api.example", {}, 5, connections=connections)
        with pytest.raises(ConnectionFailed):
            await client.post("https://api.example/v1", b"", in_seconds(30))
        await connections.aclose()
    assert "hunter2" not in caplog.text


async def test_a_tunnel_that_hangs_has_the_time_of_a_connect_and_is_closed() -> None:
    async def silent(talk: Talk) -> None:
        await talk.gone()

    server = await raw_server(silent)
    connections = Connections({"ALL_PROXY": server.url})
    client = Client("https://api.example", {}, 0.2, connections=connections)
    with pytest.raises(TimeoutError):
        await client.post("https://api.example/v1", b"", in_seconds(30))
    await server.until_nobody(60)
    await connections.aclose()
    await server.aclose()


async def test_a_refused_certificate_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tls, _ = contexts(tmp_path, HERE)
    server = await raw_server(always(whole(b"a")), tls)
    with proxy() as between, caplog.at_level(logging.WARNING):
        for environment in ({}, {"HTTPS_PROXY": between.url}):
            caplog.clear()
            connections = Connections(environment)
            client = Client(server.url, {}, 5, connections=connections)
            with pytest.raises(ConnectionFailed):
                await client.post(server.url, b"", in_seconds(30))
            await connections.aclose()
            authority = server.url.removeprefix("https://")
            assert f"The certificate of {authority} was refused: self-signed certificate" in caplog.text
    await server.aclose()


async def test_the_certificates_of_the_environment_are_trusted_and_no_others(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, HERE)
    server = await raw_server(always(whole(b"a")), server_context(cert, key))
    right = [{"SSL_CERT_FILE": str(cert)}]
    if openssl := shutil.which("openssl"):
        (tmp_path / "folder").mkdir()
        shutil.copy(cert, tmp_path / "folder" / f"{subject_hash(openssl, cert)}.0")
        right += [{"SSL_CERT_DIR": str(tmp_path / "folder")}]
    for environment in right:
        connections = Connections(environment)
        client = Client(server.url, {}, 5, connections=connections)
        assert await ask(server, client) == b"a"
        await connections.aclose()
    for wrong in ({"SSL_CERT_FILE": str(tmp_path / "none")}, {"SSL_CERT_DIR": str(tmp_path / "none")}):
        connections = Connections(wrong)
        client = Client(server.url, {}, 5, connections=connections)
        with pytest.raises(ConnectionFailed, match="SSL_CERT_"):
            await client.post(server.url, b"", in_seconds(30))
        await connections.aclose()
    await server.aclose()


def subject_hash(openssl: str, cert: Path) -> str:
    """The name under which OpenSSL looks for a certificate in a folder."""
    command = [openssl, "x509", "-noout", "-hash", "-in", str(cert)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
