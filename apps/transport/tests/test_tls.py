"""TLS: who is trusted, what name is asked for, and that a handshake has its time too."""

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apps.transport.client import Client
from apps.transport.errors import ConnectionFailed
from apps.transport.tests.calls import in_seconds, served
from apps.transport.tests.raw_server import CHUNKED, Talk, always, chunk, raw_server, whole


def certificate(folder: Path, *names: x509.GeneralName) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(plain)
    return folder / "cert.pem", folder / "key.pem"


def contexts(folder: Path, *names: x509.GeneralName) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's, and the one of a client that trusts it."""
    cert, key = certificate(folder, *names)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=cert)


HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


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
        assert (await client.post(url, b"", in_seconds(2))).status == 200
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
        await client.post(plain.url.replace("http:", "https:"), b"", in_seconds(2))
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
