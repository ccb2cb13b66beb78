"""TLS: who is trusted, what name is asked for, and that a handshake has its time too."""

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from apps.tests.support.certificates import HERE, contexts
from apps.transport.client import Client
from apps.transport.response import ConnectionFailed
from apps.transport.tests.calls import in_seconds, served
from apps.transport.tests.raw_server import CHUNKED, Talk, always, chunk, raw_server, whole


async def test_a_trusted_server_is_asked_again_and_again_on_one_connection(tmp_path: Path) -> None:
    server, trusting = contexts(tmp_path, HERE)
    answer = CHUNKED + chunk(b"x" * 300_000) + b"0\r\n\r\n"
    async with served(always(answer[:1000], answer[1000:]), tls=server, trust=trusting) as call:
        for _ in range(5):
            assert await call.ask(b"y" * 200_000) == (200, b"x" * 300_000)
        assert call.server.accepted == 1
        await call.client.aclose()
        await call.server.until_nobody()


async def test_a_name_is_asked_for_and_checked(tmp_path: Path) -> None:
    server, trusting = contexts(tmp_path, x509.DNSName("localhost"))
    asked: list[str | None] = []
    server.sni_callback = lambda connection, name, context: asked.append(name)
    async with served(always(whole(b"a")), tls=server, trust=trusting) as call:
        url = call.server.url.replace("127.0.0.1", "localhost")
        client = Client(url, {}, 2.0, trusting)
        assert (await client.post(url, b"", in_seconds(60))).status == 200
        await client.aclose()
        assert asked == ["localhost"]
        with pytest.raises(ConnectionFailed):  # the certificate is not for 127.0.0.1
            await call.ask()


async def test_a_server_that_nobody_vouches_for_gets_no_request(tmp_path: Path) -> None:
    server, _ = contexts(tmp_path, HERE)
    async with served(always(whole(b"a")), tls=server) as call:
        with pytest.raises(ConnectionFailed) as caught:
            await call.ask()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert call.server.accepted == 0
        assert call.client.idle == 0


async def test_a_server_without_tls_is_a_failed_connection() -> None:
    plain = await raw_server(once_garbage)
    client = Client(plain.url.replace("http:", "https:"), {}, 2.0)
    with pytest.raises(ConnectionFailed):
        await client.post(plain.url.replace("http:", "https:"), b"", in_seconds(60))
    await plain.until_nobody()
    await client.aclose()
    await plain.aclose()


async def test_a_handshake_that_hangs_has_the_time_of_a_connect_and_is_closed() -> None:
    async def silent(talk: Talk) -> None:
        await talk.gone()

    server = await raw_server(silent)
    url = server.url.replace("http:", "https:")
    client = Client(url, {}, 0.3)
    with pytest.raises(TimeoutError):
        await client.post(url, b"", in_seconds(20))
    await server.until_nobody()
    task = asyncio.create_task(client.post(url, b"", in_seconds(20)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.until_nobody()
    await client.aclose()
    await server.aclose()


async def once_garbage(talk: Talk) -> None:
    await talk.send(b"220 not for you\r\n")
    await talk.gone()
